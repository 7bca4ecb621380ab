"""Reasoning before a structured output: free up to the closing marker, within its budget, and then the grammar."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from tokenizers import AddedToken

from inflight.errors import RequestError
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.grammar import Grammar
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from tests.engines.serving_engines import write_null_engine
from tests.models.tiny_tokenizers import KINDS

pytestmark = pytest.mark.unit

ANSWER = StructuredOutputs(json={"enum": ["yes", 7]})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("null") / "engine")


@pytest.fixture(scope="module", params=["text", "tokens", "byte_fallback"])
def tokenizer(request: pytest.FixtureRequest, engine: Path) -> Tokenizer:
    """Markers that are ordinary text, or special tokens, to a byte-level tokenizer; and text to SentencePiece's."""
    if request.param == "byte_fallback":
        return Tokenizer(KINDS["byte_fallback"]())
    tokenizer = load_tokenizer(engine / "tokenizer")
    if request.param == "tokens":
        backend = tokenizer.backend
        backend.add_special_tokens([AddedToken("<think>"), AddedToken("</think>")])
        tokenizer = Tokenizer(backend)
    return tokenizer


@pytest.fixture(scope="module")
def compiler(engine: Path, tokenizer: Tokenizer) -> GrammarCompiler:
    manifest = read_engine_directory(engine).manifest
    vocab_size = tokenizer.vocab_size + 3
    manifest = replace(manifest, model=replace(manifest.model, vocab_size=vocab_size))
    return GrammarCompiler(lambda: tokenizer, manifest)


def walk(
    grammar: Grammar, tokenizer: Tokenizer, rng: np.random.Generator, most: int, avoid: bytes = b"\0"
) -> tuple[str, int]:
    """The text of allowed tokens, chosen at random but for those that have `avoid` in them, and how many they are."""
    ids: list[int] = []
    while len(ids) < most and not grammar.ended:
        mask = grammar.mask()
        bits = (1 << tokenizer.vocab_size) - 1 if mask is None else int.from_bytes(mask, "little")
        possible = [token for token in range(tokenizer.vocab_size) if bits >> token & 1]
        assert grammar.forced() is None or possible == [grammar.forced()]
        chosen = [token for token in possible if avoid not in tokenizer.token_bytes(token)] or possible
        ids.append(int(rng.choice(chosen)))
        grammar.accept(ids[-1])
        assert grammar.failure is None
    return b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace"), len(ids)


def first(opening: str = "", budget: int | None = None) -> ReasoningFirst:
    return ReasoningFirst(opening, "</think>", "</think>", budget)


def test_a_budget_closes_the_reasoning_and_the_grammar_follows(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    for _ in range(20):
        budget = int(rng.integers(0, 20))
        grammar = compiler.compile(ANSWER, first(budget=budget))
        text, count = walk(grammar, tokenizer, rng, 500, b">")
        _, found, answer = text.partition("</think>")
        assert found and json.loads(answer) in ("yes", 7), text
        assert count <= budget + 8 + len(answer)


def test_without_a_grammar_everything_may_follow(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    grammar = compiler.compile(None, first(budget=3))
    text, count = walk(grammar, tokenizer, rng, 60, b">")
    assert count == 60 and "</think>" in text and grammar.mask() is None


def test_the_model_may_open_its_reasoning_or_leave_it_out(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    seen = set()
    for _ in range(40):
        grammar = compiler.compile(ANSWER, first("<think>", budget=int(rng.integers(0, 9))))
        text, _ = walk(grammar, tokenizer, rng, 500)
        seen.add(text.startswith("<think>"))
        answer = text.removeprefix("<think>").partition("</think>")[2] if text.startswith("<think>") else text
        assert json.loads(answer) in ("yes", 7), text
    assert seen == {True, False}


def test_a_token_that_would_carry_text_past_the_marker_is_not_allowed(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.compile(ANSWER, first())
    for token in tokenizer.encode("so </think", False):
        grammar.accept(token)
    mask = grammar.mask()
    assert mask is not None
    bits = int.from_bytes(mask, "little")
    for token in range(tokenizer.vocab_size):
        word = tokenizer.token_bytes(token)
        if word.startswith(b">") and word[1:].strip():
            assert not bits >> token & 1, word


def test_a_budget_of_its_own_tokens_finds_the_opening_however_it_is_spelled(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    for opening in ("<think>", "\n<think>"):
        grammar = compiler.compile(None, first("<think>", budget=0))
        for token in [tokenizer.encode(letter, False)[-1] for letter in opening]:
            assert grammar.mask() is None
            grammar.accept(token)
        assert walk(grammar, tokenizer, rng, 20)[0].startswith("</think>")
    grammar = compiler.compile(None, first("<think>", budget=0))
    for token in tokenizer.encode("No <think>", False):
        grammar.accept(token)
    assert grammar.mask() is None


def test_copies_go_their_own_ways(compiler: GrammarCompiler, tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    grammar = compiler.compile(ANSWER, first(budget=5))
    walk(grammar, tokenizer, rng, 3, b">")
    twin = grammar.copy()
    before = grammar.mask()
    assert json.loads(walk(twin, tokenizer, rng, 500, b">")[0].partition("</think>")[2]) in ("yes", 7)
    assert grammar.mask() == before


@pytest.mark.parametrize(
    "values",
    [
        {"closing": ""},
        {"forced": "</think>\n"},
        {"budget": -1},
        {"budget": True},
        {"opening": "x" * 300},
        {"closing": 7},
    ],
)
def test_what_is_no_reasoning_is_refused(values: dict[str, object]) -> None:
    plain = {"opening": "", "closing": "</think>", "forced": "</think>"}
    with pytest.raises(RequestError):
        ReasoningFirst(**(plain | values))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"opening": "a"}', '{"verse": 1}', "[" * 5000])
def test_what_is_no_reasoning_on_the_wire_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        ReasoningFirst.of(text)


def test_it_comes_through_the_wire_as_it_was() -> None:
    for reasoning in (first(), ReasoningFirst("◁think▷", "◁/think▷", "\n◁/think▷", 9)):
        assert ReasoningFirst.of(reasoning.text) == reasoning
