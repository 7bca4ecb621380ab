"""Structures that follow triggers in free text."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from msgspec.structs import replace
from tokenizers import AddedToken

from inflight.errors import RequestError
from inflight.runtime import StructuredOutputs
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.grammar import Grammar
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from tests.engines.serving_engines import write_null_engine

pytestmark = pytest.mark.unit

DAYS = {
    "type": "object",
    "properties": {"days": {"type": "integer"}},
    "required": ["days"],
    "additionalProperties": False,
}
NAME = {"enum": ["fox", "dog"]}
TAG: dict[str, Any] = {
    "structures": [
        {"begin": "<function=days>", "schema": DAYS, "end": "</function>"},
        {"begin": "<function=name>", "schema": NAME, "end": "</function>"},
        {"begin": "[say]", "schema": {"type": "string", "maxLength": 5}, "end": ""},
    ],
    "triggers": ["<function=", "[say]"],
}


@pytest.fixture(scope="module", params=["text", "tokens"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A trigger that is text, or a special token."""
    engine = write_null_engine(tmp_path_factory.mktemp("null") / "engine")
    tokenizer = load_tokenizer(engine / "tokenizer")
    if request.param == "tokens":
        backend = tokenizer.backend
        backend.add_special_tokens([AddedToken("[say]")])
        tokenizer = Tokenizer(backend)
    return tokenizer


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    manifest = read_engine_directory(write_null_engine(tmp_path_factory.mktemp("null") / "engine")).manifest
    manifest = replace(manifest, model=replace(manifest.model, vocab_size=tokenizer.vocab_size))
    return GrammarCompiler(lambda: tokenizer, manifest)


def bits(grammar: Grammar) -> int:
    mask = grammar.mask()
    assert mask is not None
    return int.from_bytes(mask, "little")


def push(grammar: Grammar, tokenizer: Tokenizer, text: str) -> bool:
    """Whether every token of the text was allowed; it stops at the first that was not."""
    for token in tokenizer.encode(text, add_special_tokens=False):
        if not bits(grammar) >> token & 1:
            return False
        grammar.accept(token)
        assert grammar.failure is None
    return True


def test_text_is_free_and_a_trigger_binds_what_follows(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    for text, allowed in (
        ("a quick < brown [ fox", True),
        ('I call <function=days>{"days": 3}</function> and <function=name>"fox"</function>!', True),
        ('so [say]"yes" it is [say]"no"', True),
        ("<function=verse>", False),
        ('<function=days>{"days": "three"}', False),
        ('x <function=name>"cat"', False),
        ('<function=name>"dog"<', True),
        ('<function=name>"dog"! ', False),
        ("[say]yes", False),
    ):
        grammar = compiler.compile(StructuredOutputs(structural_tag=TAG))
        assert push(grammar, tokenizer, text) is allowed, text


def test_whatever_is_chosen_behind_a_trigger_is_of_its_schema(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    for _ in range(10):
        grammar = compiler.compile(StructuredOutputs(structural_tag=json.dumps(TAG)))
        assert push(grammar, tokenizer, "the fox <function=")
        written = b""
        for _ in range(400):
            possible = [token for token in range(tokenizer.vocab_size) if bits(grammar) >> token & 1]
            # Blanks and long numbers would go on for ever.
            short = [token for token in possible if tokenizer.token_bytes(token).strip(b" \n\r\t0123456789")]
            chosen = int(rng.choice(short or possible))
            grammar.accept(chosen)
            written += tokenizer.token_bytes(chosen)
            if b"</function>" in written:
                break
        name, _, rest = written.decode(errors="replace").partition(">")
        value = json.loads(rest.partition("</function>")[0])
        jsonschema.validate(value, {"days": DAYS, "name": NAME}[name])


def test_tags_may_hold_any_character(compiler: GrammarCompiler, tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    odd = ["\x7f", "\x01", "\t", '"', "\\", "/", "\u2028", "\U0001f98a", "\ufeff", "<[3]>"]
    for _ in range(5):
        trigger, begin, end = ("".join(rng.permutation(odd)) for _ in range(3))
        structure = {"begin": trigger + begin, "schema": {"const": "fox"}, "end": end}
        tag = {"structures": [structure], "triggers": [trigger]}
        for body, allowed in (('"fox"', True), ('"dog"', False)):
            grammar = compiler.compile(StructuredOutputs(structural_tag=tag))
            assert push(grammar, tokenizer, f"a {trigger}{begin}{body}{end} b") is allowed, (tag, body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"structures": []}, "needs structures"),
        ({"structures": {"begin": "a"}}, "needs structures"),
        ({"triggers": []}, "needs triggers"),
        ({"triggers": ["<function=", ""]}, "needs triggers"),
        ({"triggers": ["<function="]}, "begins with none of the triggers"),
        ({"triggers": ["<function=", "[say]", "!"]}, "no tag that begins with the trigger"),
        ({"structures": [7]}, "must be an object"),
        ({"structures": [{"begin": "[say]", "schema": 7, "end": ""}]}, "a JSON schema"),
        ({"structures": [{"begin": "[say]", "grammar": ""}]}, "must be an object"),
        ({"verse": 1}, "has no 'verse'"),
    ],
)
def test_what_is_no_structural_tag_is_refused(compiler: GrammarCompiler, change: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        compiler.compile(StructuredOutputs(structural_tag=TAG | change))


@pytest.mark.parametrize("tag", ["", "[]", "{", 7, "[" * 50_000])
def test_what_is_no_object_is_refused(tag: Any) -> None:
    with pytest.raises(RequestError):
        StructuredOutputs(structural_tag=tag)
