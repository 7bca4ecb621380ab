"""Streams of tokens become the text of the whole, for every kind of tokenizer and any ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import BYTE_PIECES, KINDS, byte_fallback, byte_level, random_ids, random_text

pytestmark = pytest.mark.unit

BYTE_FALLBACK = ("byte_fallback", "byte_fallback_without_strip")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(KINDS[request.param]())


def random_pushes(rng: np.random.Generator, ids: list[int]) -> Iterator[list[int]]:
    start = 0
    while start < len(ids):
        end = start + int(rng.integers(1, 4))
        yield ids[start:end]
        start = end


def byte_tokens(tokenizer: Tokenizer, data: bytes) -> list[int]:
    return [tokenizer.token_id(BYTE_PIECES[byte]) or pytest.fail() for byte in data]


def stream(tokenizer: Tokenizer, pushes: Iterator[list[int]], skip_special_tokens: bool = True) -> str:
    detokenizer = tokenizer.detokenizer(skip_special_tokens)
    return "".join([detokenizer.push(ids) for ids in pushes] + [detokenizer.flush()])


def test_a_stream_of_any_ids_joins_to_the_decoding_of_the_whole(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    for _ in range(400):
        ids = random_ids(rng, tokenizer.backend)
        for skip in (True, False):
            assert stream(tokenizer, random_pushes(rng, ids), skip) == tokenizer.decode(ids, skip), ids


def test_a_stream_of_encoded_text_joins_to_its_decoding(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    for _ in range(200):
        ids = tokenizer.encode(random_text(rng))
        assert stream(tokenizer, random_pushes(rng, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "byte_fallback_without_strip"])
def test_text_survives_the_round_trip(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    for _ in range(100):
        text = random_text(rng).replace("▁", "_").lstrip(" ")
        assert stream(tokenizer, iter([[i] for i in tokenizer.encode(text)])) == text


@pytest.mark.parametrize("text", ["<0x41>", "<0xE2>x", "a<0x0A>"])
def test_bytes_that_spell_a_byte_token_are_text(text: str) -> None:
    tokenizer = Tokenizer(byte_fallback())
    ids = byte_tokens(tokenizer, text.encode())
    assert stream(tokenizer, iter([[i] for i in ids])) == tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_no_half_character_is_ever_shown(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    for _ in range(100):
        detokenizer = tokenizer.detokenizer()
        for token_id in tokenizer.encode(random_text(rng).replace("�", "")):
            assert "�" not in detokenizer.push([token_id])


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    tokenizer = Tokenizer(byte_level())
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push([token_id]) for token_id in tokenizer.encode("the café 東")]
    assert "".join(pieces) == "the café 東"
    assert detokenizer.flush() == ""


def test_an_incomplete_character_is_flushed_as_a_replacement() -> None:
    tokenizer = Tokenizer(byte_level())
    detokenizer = tokenizer.detokenizer()
    first_byte = tokenizer.encode("\U0001f9ff", add_special_tokens=False)[:1]
    assert detokenizer.push(first_byte) == ""
    assert detokenizer.flush() == tokenizer.decode(first_byte) == "�"


@pytest.mark.parametrize("kind", BYTE_FALLBACK)
def test_each_character_of_a_run_of_byte_tokens_is_shown_when_it_is_whole(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    characters = [c for c in "x" + random_text(rng) + "\U0001f389" * 5 if c not in " \ufffd"]
    detokenizer = tokenizer.detokenizer()
    for character in characters:
        *partial, whole = [detokenizer.push([token_id]) for token_id in byte_tokens(tokenizer, character.encode())]
        assert (partial, whole) == ([""] * len(partial), character)
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("kind", BYTE_FALLBACK)
def test_of_a_run_of_byte_tokens_only_what_is_broken_is_replaced(kind: str, rng: np.random.Generator) -> None:
    """Where a run is broken the library gives it up as a whole; here it reads as Python decodes its bytes."""
    tokenizer = Tokenizer(KINDS[kind]())
    for _ in range(200):
        ids, expected = tokenizer.encode("fox", add_special_tokens=False), "fox"
        for _ in range(rng.integers(1, 5)):
            run = random_text(rng).encode() if rng.random() < 0.5 else rng.bytes(int(rng.integers(1, 6)))
            run = run[: int(rng.integers(1, len(run) + 1))]
            ids += [*byte_tokens(tokenizer, run), *tokenizer.encode("\nfox", add_special_tokens=False)[-3:]]
            expected += run.decode("utf-8", errors="replace") + tokenizer.decode(ids[-3:])
        assert tokenizer.decode(ids) == stream(tokenizer, random_pushes(rng, ids)) == expected, ids


def test_a_broken_character_at_the_end_leaves_those_before_it() -> None:
    tokenizer = Tokenizer(byte_fallback())
    ids = byte_tokens(tokenizer, "\U0001f389".encode() * 5)[:-1]
    assert stream(tokenizer, iter([[i] for i in ids])) == tokenizer.decode(ids) == "\U0001f389" * 4 + "\ufffd"


def test_a_long_stream_costs_the_same_per_token_from_start_to_end(tokenizer: Tokenizer) -> None:
    """The stages hold a bounded part of the text: what they keep does not grow with the sequence."""
    if tokenizer.decoding_stages is None:
        pytest.skip("this decoder works on the whole")
    detokenizer = tokenizer.detokenizer()
    ids = tokenizer.encode("the quick brown fox " * 50, add_special_tokens=False)
    shown = 0
    for count, token_id in enumerate(ids, start=1):
        shown += len(detokenizer.push([token_id]))
        assert len(tokenizer.decode(ids[:count])) - shown <= 1
