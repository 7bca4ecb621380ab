"""What a structured output may be, and which are refused, at once and with a reason."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from msgspec.structs import replace
from pydantic import BaseModel, Field

from inflight.errors import RequestError
from inflight.runtime import SamplingParams, StructuredOutputs
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.outputs import MAX_CHARACTERS, MAX_CHOICES, MAX_DEPTH
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.runtime.text.words import takes_first_blank
from tests.engines.serving_engines import write_null_engine
from tests.models.tiny_tokenizers import KINDS
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("null") / "engine")


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return load_tokenizer(engine / "tokenizer")


@pytest.fixture(scope="module")
def compiler(engine: Path, tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(lambda: tokenizer, read_engine_directory(engine).manifest)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "given: none"),
        ({"regex": "a", "choice": ["b"]}, "given: regex and choice"),
        ({"json": "{"}, "no JSON"),
        ({"json": {"a": float("nan")}}, "no JSON"),
        ({"json": {"a": object()}}, "no JSON"),
        ({"json": 5}, "must be an object"),
        ({"json": "[1]"}, "must be an object"),
        ({"json": "[" * 50_000 + "]" * 50_000}, "nested deeper"),
        ({"json": json.loads('{"items":' * (MAX_DEPTH + 1) + "{}" + "}" * (MAX_DEPTH + 1))}, "nested deeper"),
        ({"json": {"const": "a" * MAX_CHARACTERS}}, "characters"),
        ({"regex": ""}, "at least one character"),
        ({"regex": "a\ud800"}, "surrogate"),
        ({"grammar": 7}, "must be a string"),
        ({"choice": []}, "none that is empty"),
        ({"choice": ["a", ""]}, "none that is empty"),
        ({"choice": "ab"}, "list of strings"),
        ({"choice": ["a"] * (MAX_CHOICES + 1)}, "at most"),
        ({"schema": {}}, "has no 'schema'"),
        ({"json_object": "no"}, "true or false"),
        ({"json_object": 1}, "true or false"),
    ],
)
def test_what_is_no_structured_output_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        SamplingParams(structured_outputs=values)  # type: ignore[arg-type]


def test_a_schema_keeps_the_order_of_its_keys() -> None:
    schema = {"properties": {"b": True, "a": True}, "type": "object"}
    assert StructuredOutputs(json=schema).value == json.dumps(schema)
    assert StructuredOutputs(json=json.dumps(schema)) == StructuredOutputs(json=schema)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (StructuredOutputs(json={"type": "verse"}), "JSON schema cannot be used"),
        (StructuredOutputs(json=False), "JSON schema cannot be used"),
        (StructuredOutputs(json={"type": "integer", "minimum": 3, "maximum": 2}), "JSON schema cannot be used"),
        (StructuredOutputs(json={"$ref": "https://example.com/schema"}), "JSON schema cannot be used"),
        (StructuredOutputs(regex="(a"), "regular expression cannot be used"),
        (StructuredOutputs(grammar="start: missing"), "grammar cannot be used"),
        (StructuredOutputs(grammar="no grammar at all"), "grammar cannot be used"),
        (StructuredOutputs(grammar='?start: "a"'), "no rule as Lark has them"),
        (StructuredOutputs(grammar='start: start "a"'), "begins with itself"),
        (StructuredOutputs(json={"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "comes to an end"),
        (StructuredOutputs(json={"const": 2**53 + 1}), "const has the integer 9007199254740993"),
        (StructuredOutputs(json={"items": {"enum": ["a", {"b": -(2**63)}]}}), "enum has the integer"),
        (StructuredOutputs(json={"type": "integer", "maximum": 2**63 - 1}), "maximum has the integer"),
        (StructuredOutputs(json={"oneOf": [{"type": "integer"}, {"type": "number"}]}), "use anyOf$"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(
    compiler: GrammarCompiler, outputs: StructuredOutputs, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        compiler.compile(outputs)


@pytest.mark.parametrize(
    "outputs",
    [
        StructuredOutputs(regex="((a{1,500}){1,500}){1,500}"),
        StructuredOutputs(regex="(.*a){60}b.{2000}"),
        StructuredOutputs(json={"type": "string", "pattern": "^(a|b|ab){1,3000}(c.*d){500}$"}),
        StructuredOutputs(
            grammar="\n".join([f"r{n}: r{n + 1} r{n + 1}" for n in range(1000)] + ["start: r0", 'r1000: "a"'])
        ),
    ],
)
def test_what_costs_much_comes_to_an_end(compiler: GrammarCompiler, outputs: StructuredOutputs) -> None:
    """It is refused, or it works: neither takes the memory or the time of everybody else."""
    started = time.monotonic()
    try:
        grammar = compiler.compile(outputs)
    except RequestError:
        pass
    else:
        for _ in range(3):
            grammar.mask()
    # Not a measurement: without limits these take minutes.
    assert time.monotonic() - started < 60


def test_a_grammar_is_compiled_once_and_its_copies_go_their_own_ways(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    outputs = StructuredOutputs(choice=["ab", "ac"])
    first, second = compiler.compile(outputs), compiler.compile(StructuredOutputs(choice=("ab", "ac")))
    before = second.mask()
    (token,) = [id for id in allowed(first.mask()) if tokenizer.token_bytes(id) == b"a"]
    first.accept(token)
    assert {tokenizer.token_bytes(id) for id in allowed(first.mask())} == {b"b", b"c"}
    assert second.mask() == before
    assert not first.ended and first.failure is None


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "byte_fallback_without_strip", "unigram"])
def test_forced_text_is_spelled_letter_by_letter_with_every_tokenizer(kind: str, rng: np.random.Generator) -> None:
    """Also by one that begins every text with a blank, and where the letters are those of a special token."""
    tokenizer = Tokenizer(KINDS[kind]())
    size = tokenizer.vocab_size
    manifest = null_manifest(vocab_size=size, max_seq_len=100, max_batch_size=1, end_token_ids=(size - 1,))
    compiler = GrammarCompiler(lambda: tokenizer, manifest)
    special = [piece for token in range(size) if (piece := tokenizer.special_piece(token))]
    known = [token for token in range(size) if tokenizer.special_piece(token) is None and tokenizer.token_bytes(token)]
    drawn = ["".join(tokenizer.token_text(known[n]) for n in rng.integers(len(known), size=5)) for _ in range(20)]
    texts = [each for each in drawn if "\N{REPLACEMENT CHARACTER}" not in each]
    texts += [] if kind == "unigram" else ["fox", "a  b", "▁", "<0x41>", *special, *(f"x{each} y" for each in special)]
    for text in [*texts, *(f" {each}" for each in texts[:5])]:
        grammar, ids = compiler.compile(StructuredOutputs(choice=[text])), []
        while not grammar.ended and (possible := sorted(allowed(grammar.mask()) - {size - 1})):
            assert grammar.forced() is None or possible == [grammar.forced()]
            ids.append(int(rng.choice(possible)))
            grammar.accept(ids[-1])
        assert grammar.failure is None
        # A blank that the text loses with its first token comes on top.
        lost = " " if takes_first_blank(tokenizer) else ""
        spelled = b"".join(map(tokenizer.token_bytes, ids)).decode()
        assert spelled == lost + text or (spelled == text and not (lost and text.startswith(" ")))
        # The decoder takes the letter for a blank.
        if "▁" not in text:
            assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("escaped", [r"\u0061ge", r"a\u0067e", r"\u0061\u0067\u0065"])
def test_a_key_has_one_spelling(compiler: GrammarCompiler, tokenizer: Tokenizer, escaped: str) -> None:
    """Else its value could be what its schema does not allow, as that of a property which the schema leaves open."""
    schema: dict[str, Any] = {"type": "object", "properties": {"age": {"type": "integer"}, "name": {"type": "string"}}}
    for text, possible in (('{"age": 3}', True), ('{"other": "a"}', True), (f'{{"{escaped}": "a"}}', False)):
        grammar = compiler.compile(StructuredOutputs(json=schema))
        for token in tokenizer.encode(text, add_special_tokens=False):
            grammar.accept(token)
        assert (grammar.failure is None) is possible, text
    # A character without another spelling can be written all the same.
    grammar = compiler.compile(StructuredOutputs(json={"const": "a\x01"}))
    for token in tokenizer.encode(r'"a\u0001"', add_special_tokens=False):
        grammar.accept(token)
    assert grammar.failure is None


def test_names_of_properties_are_no_keywords(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    large = 2**60
    shape = {"type": "object", "properties": {"const": {"enum": [1, large]}}}
    for name in ("const", "enum", "minimum", "oneOf", "default"):
        own = {"type": "object", "properties": {name: {"description": "a number", "maxLength": 3, "type": "string"}}}
        compiler.compile(StructuredOutputs(json={**own, "default": {"minimum": large}}))
    with pytest.raises(RequestError, match=f"enum has the integer {large}"):
        compiler.compile(StructuredOutputs(json=shape))
    union = {"oneOf": [{"type": "object", "properties": {"k": {"const": each}}, "required": ["k"]} for each in "ab"]}
    for place in ("const", "enum"):
        grammar = compiler.compile(StructuredOutputs(json={"type": "object", "properties": {place: union}}))
        for token in tokenizer.encode(json.dumps({place: {"k": "b"}}), add_special_tokens=False):
            grammar.accept(token)
        assert grammar.failure is None


def test_true_is_any_json_and_annotations_may_have_any_number(compiler: GrammarCompiler) -> None:
    assert compiler.compile(StructuredOutputs(json=True)).mask() == compiler.compile(StructuredOutputs(json={})).mask()
    compiler.compile(StructuredOutputs(json={"type": "integer", "default": 2**70, "examples": [2**80]}))


def test_a_union_with_a_discriminator_is_followed(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog", "wolf"]

    class Pet(BaseModel):
        pet: Cat | Dog = Field(discriminator="kind")

    schema = Pet.model_json_schema()
    assert "oneOf" in json.dumps(schema)
    for kind, possible in (("cat", True), ("wolf", True), ("fish", False)):
        grammar = compiler.compile(StructuredOutputs(json=schema))
        for token in tokenizer.encode(json.dumps({"pet": {"kind": kind}}), add_special_tokens=False):
            grammar.accept(token)
        assert (grammar.failure is None) is possible


def test_a_token_that_is_not_allowed_is_a_failure(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = compiler.compile(StructuredOutputs(choice=["ab"]))
    wrong = next(id for id in range(tokenizer.vocab_size) if id not in allowed(grammar.mask()))
    grammar.accept(wrong)
    assert grammar.failure is not None and grammar.ended


def test_the_last_words_of_the_mask_are_those_of_the_vocabulary(engine: Path, tokenizer: Tokenizer) -> None:
    """Padding behind the tokenizer's vocabulary, which logits have, is never allowed."""
    manifest = read_engine_directory(engine).manifest
    wider = replace(manifest, model=replace(manifest.model, vocab_size=tokenizer.vocab_size + 77))
    mask = GrammarCompiler(lambda: tokenizer, wider).compile(StructuredOutputs(regex="(.|\n)*")).mask()
    assert mask is not None and len(mask) == -(-(tokenizer.vocab_size + 77) // 32) * 4
    possible = {token for token in allowed(mask) if token < wider.model.vocab_size}
    assert possible and max(possible) < tokenizer.vocab_size


def test_what_is_compiled_does_not_wait_for_what_is_being_compiled(engine: Path, tokenizer: Tokenizer) -> None:
    """Whoever asks for the former may be the event loop."""
    may_go_on, has_come = threading.Event(), threading.Event()

    def slow_tokenizer() -> Tokenizer:
        has_come.set()
        assert may_go_on.wait(PATIENCE_S)
        return tokenizer

    compiler = GrammarCompiler(slow_tokenizer, read_engine_directory(engine).manifest)
    may_go_on.set()
    known = StructuredOutputs(regex="fox")
    compiler.compile(known)
    may_go_on.clear()
    has_come.clear()
    new = threading.Thread(target=compiler.compile, args=(StructuredOutputs(regex="dog"),), daemon=True)
    new.start()
    assert has_come.wait(PATIENCE_S)
    again = threading.Thread(target=compiler.compile, args=(known,), daemon=True)
    again.start()
    again.join(PATIENCE_S / 2)
    is_waiting = again.is_alive()
    may_go_on.set()
    new.join(PATIENCE_S)
    assert not is_waiting and not new.is_alive()


def allowed(mask: bytes | None) -> set[int]:
    assert mask is not None
    bits = int.from_bytes(mask, "little")
    return {token for token in range(len(mask) * 8) if bits >> token & 1}
