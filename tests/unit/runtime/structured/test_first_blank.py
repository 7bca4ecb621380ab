"""Structured output of tokenizers that begin a text with a blank and take it away again: the text is what was asked
for, whatever blanks it begins with, and a model may begin it as the tokenizer does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime import StructuredOutputs
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.text.tokenizer import Tokenizer
from tests.engines.random_schemas import random_schema
from tests.models.tiny_tokenizers import KINDS

pytestmark = pytest.mark.unit

Compiled = tuple[GrammarCompiler, Tokenizer]
ROOM = 300


@pytest.fixture(scope="module", params=["byte_fallback", "unigram", "byte_fallback_without_strip", "byte_level"])
def compiled(request: pytest.FixtureRequest) -> Compiled:
    """Those that take the first blank, and those that leave it."""
    tokenizer = Tokenizer(KINDS[request.param]())
    size = tokenizer.vocab_size
    manifest = null_manifest(vocab_size=size, max_seq_len=100, max_batch_size=1, end_token_ids=(size - 1,))
    return GrammarCompiler(lambda: tokenizer, manifest), tokenizer


def walk(compiled: Compiled, outputs: StructuredOutputs, rng: np.random.Generator) -> str | None:
    """A text that the masks let through, as a stream shows it; None: it came to no end."""
    compiler, tokenizer = compiled
    grammar, end = compiler.compile(outputs), tokenizer.vocab_size - 1
    ids: list[int] = []
    while len(ids) < ROOM:
        possible = allowed(grammar.mask(), end + 1)
        if grammar.ended or (end in possible and (rng.random() < 0.2 or possible == {end})):
            stream = tokenizer.detokenizer(skip_special_tokens=True)
            text = "".join(stream.push([each]) for each in ids) + stream.flush()
            assert text == tokenizer.decode(ids)
            return text
        # Blanks are what this is about.
        blank = [each for each in possible - {end} if tokenizer.token_bytes(each).startswith(b" ")]
        chosen = blank if blank and rng.random() < 0.5 else sorted(possible - {end})
        token = int(rng.choice(chosen))
        assert (forced := grammar.forced()) is None or forced == token
        if rng.random() < 0.2:
            grammar = grammar.copy()
        grammar.accept(token)
        assert grammar.failure is None
        ids.append(token)
    return None


def allowed(mask: bytes | None, size: int) -> set[int]:
    assert mask is not None
    bits = int.from_bytes(mask, "little")
    return {token for token in range(size) if bits >> token & 1}


def lets_through(compiled: Compiled, outputs: StructuredOutputs, ids: list[int]) -> bool:
    compiler, tokenizer = compiled
    grammar = compiler.compile(outputs)
    for token in ids:
        if grammar.ended or token not in allowed(grammar.mask(), tokenizer.vocab_size):
            return False
        grammar.accept(token)
    return grammar.ended or tokenizer.vocab_size - 1 in allowed(grammar.mask(), tokenizer.vocab_size)


def _needs(compiled: Compiled, letters: str) -> None:
    if not set(letters) <= set(compiled[1].decode(compiled[1].encode(letters, add_special_tokens=False))):
        pytest.skip("the vocabulary lacks letters")


LARK = 'start: (" " | word)+ "!"\nword: /[a-c]{1,3}/'
ASKED: list[tuple[dict[str, Any], str]] = [
    ({"regex": "  [a-c]{2}"}, "  [a-c]{2}"),
    ({"regex": " ?[a-c]{1,3}( [a-c]{1,3}){0,2}"}, " ?[a-c]{1,3}( [a-c]{1,3}){0,2}"),
    ({"regex": "( |[ab]){3}"}, "( |[ab]){3}"),
    ({"choice": ["fox", " fox", "  fox", "a fox"]}, "fox| fox|  fox|a fox"),
    ({"grammar": LARK}, r"( |[a-c]{1,3})+!"),
    ({"grammar": 'root ::= " " [a-c] | "x"'}, " [a-c]|x"),
    (
        {"structural_tag": {"format": {"type": "tag", "begin": " (", "content": {"type": "any_text"}, "end": ")"}}},
        r"(?s) \([^)]*\)",
    ),
]


def test_texts_that_begin_with_any_blanks_are_what_was_asked_for(compiled: Compiled, rng: np.random.Generator) -> None:
    for values, expression in ASKED:
        outputs, found = StructuredOutputs.of(values), set()
        for _ in range(12):
            text = walk(compiled, outputs, rng)
            assert text is None or re.fullmatch(expression, text), (values, text)
            found.add(text)
        assert found != {None}


def test_json_is_valid_behind_a_first_blank_and_without(compiled: Compiled, rng: np.random.Generator) -> None:
    _needs(compiled, "{}<>")
    for _ in range(6):
        schema = random_schema(rng)
        text = walk(compiled, StructuredOutputs(json=schema), rng)
        if text is not None:
            jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("make", [lambda text: {"choice": [text]}, lambda text: {"regex": re.escape(text)}])
def test_a_text_may_be_spelled_as_the_tokenizer_does(compiled: Compiled, make: Callable[[str], Any]) -> None:
    for text in ("fox", " fox", "  fox", "the fox"):
        ids = compiled[1].encode(text, add_special_tokens=False)
        shown = compiled[1].decode(ids)
        assert lets_through(compiled, StructuredOutputs.of(make(shown)), ids), (text, ids)
        other = shown[1:] if shown.startswith(" ") else f" {shown}"
        assert not lets_through(compiled, StructuredOutputs.of(make(other)), ids), (text, ids)


def test_what_cannot_begin_is_refused_with_its_own_reason(compiled: Compiled) -> None:
    with pytest.raises(RequestError, match=r"regular expression cannot be used: .*unclosed"):
        compiled[0].compile(StructuredOutputs(regex="(a"))
    with pytest.raises(RequestError, match="begins with itself"):
        compiled[0].compile(StructuredOutputs(grammar='start: start "a"'))


def test_reasoning_may_come_before_it(compiled: Compiled, rng: np.random.Generator) -> None:
    _needs(compiled, "{}<>")
    compiler, tokenizer = compiled
    reasoning = ReasoningFirst("<think>", "</think>", "</think>", budget=2)
    grammar = compiler.compile(StructuredOutputs(regex="[ab]{3}"), reasoning)
    ids: list[int] = []
    opened = bool(rng.random() < 0.5)
    for token in tokenizer.encode("<think>", add_special_tokens=False) if opened else ():
        assert token in allowed(grammar.mask(), tokenizer.vocab_size)
        grammar.accept(token)
        ids.append(token)
    while not grammar.ended and len(ids) < ROOM:
        mask = grammar.mask()
        known = range(tokenizer.vocab_size) if mask is None else sorted(allowed(mask, tokenizer.vocab_size - 1))
        ids.append(int(rng.choice([each for each in known if "<" not in tokenizer.token_text(each)] or list(known))))
        grammar.accept(ids[-1])
    assert grammar.failure is None
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert re.fullmatch(r"[ab]{3}", text.rpartition("</think>")[2].strip() if opened else text), text
