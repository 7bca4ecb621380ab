"""Log probabilities of completions: every token has a spelling of its own, and its place in the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.openai.answers.echo import Echo
from inflight.triton_backend.openai.answers.logprobs import spell_token
from inflight.triton_backend.openai.service import Generation
from tests.endpoint.conftest import MODEL
from tests.models.tiny_tokenizers import KINDS, random_text

pytestmark = pytest.mark.endpoint

NUM_TOP = 40


def special_tokens(tokenizer: Tokenizer) -> list[str]:
    pieces = map(tokenizer.special_piece, range(tokenizer.vocab_size))
    return [piece for piece in pieces if piece]


def with_special_tokens(tokenizer: Tokenizer, rng: np.random.Generator) -> str:
    special = special_tokens(tokenizer)
    parts = [random_text(rng, 12) if rng.random() < 0.6 else str(rng.choice(special)) for _ in range(8)]
    return str(rng.choice(special)) + "".join(parts)


def bytes_spelled(token: str) -> bytes:
    return token.removeprefix("bytes:").encode("ascii").decode("unicode_escape").encode("latin-1")


def complete(shim: str, prompt: str | list[int], **body: Any) -> Any:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        return client.completions.create(model=MODEL, prompt=prompt, extra_body={"ignore_eos": True, **body}).choices[0]


def test_no_token_hides_another_among_the_likeliest(shim: str, engine: Path, rng: np.random.Generator) -> None:
    """Half of a byte-level vocabulary is parts of characters."""
    tokenizer = load_tokenizer(engine / "tokenizer")
    prompt = [int(token_id) for token_id in rng.integers(tokenizer.vocab_size, size=20)]
    choice = complete(shim, prompt=prompt, max_tokens=4, echo=True, logprobs=NUM_TOP, prompt_logprobs=NUM_TOP)
    found = choice.logprobs
    ranked = choice.prompt_logprobs
    for place in range(1, len(prompt)):
        expected = {
            spell_token(int(token_id), tokenizer.token_bytes(int(token_id))): row["logprob"]
            for token_id, row in ranked[place].items()
        }
        assert found.top_logprobs[place] == expected and len(expected) >= NUM_TOP
    num_parts = 0
    for token, logprob, top in zip(found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True):
        assert top[token] == logprob and len(top) >= NUM_TOP
        parts = [each for each in top if each.startswith("bytes:")]
        num_parts += len(parts)
        for each in parts:
            with pytest.raises(UnicodeDecodeError):
                bytes_spelled(each).decode()
    assert num_parts, "as many tokens are parts of characters"


def test_every_token_of_the_vocabulary_is_spelled_in_its_own_way(engine: Path) -> None:
    tokenizer = load_tokenizer(engine / "tokenizer")
    ids = range(tokenizer.vocab_size + 10)
    assert len({spell_token(token_id, tokenizer.token_bytes(token_id)) for token_id in ids}) == len(ids)


def test_the_echo_places_each_token_where_it_stands(shim: str, engine: Path, rng: np.random.Generator) -> None:
    prompt = with_special_tokens(load_tokenizer(engine / "tokenizer"), rng)
    choice = complete(shim, prompt=prompt, max_tokens=3, echo=True, logprobs=1)
    assert choice.text.startswith(prompt)
    found = choice.logprobs
    tokens, offsets = found.tokens[1:], found.text_offset[1:]
    assert found.text_offset[0] == offsets[0] == 0, "the first is the tokenizer's own"
    assert offsets == sorted(offsets)
    for token, offset in list(zip(tokens, offsets, strict=True))[:-3]:
        if token.startswith("bytes:"):
            assert bytes_spelled(token) in choice.text[offset : offset + len(token)].encode()
        else:
            assert choice.text.startswith(token, offset), (token, offset, choice.text)
    assert found.text_offset[-3] == len(prompt)


@pytest.mark.parametrize("skip", [True, False])
def test_an_echo_of_ids_shows_special_tokens_where_they_are_wanted(
    shim: str, engine: Path, rng: np.random.Generator, skip: bool
) -> None:
    tokenizer = load_tokenizer(engine / "tokenizer")
    ids = tokenizer.encode(with_special_tokens(tokenizer, rng))
    choice = complete(shim, prompt=ids, max_tokens=1, echo=True, logprobs=0, skip_special_tokens=skip)
    text = tokenizer.decode(ids, skip_special_tokens=skip)
    assert choice.text.startswith(text)
    assert choice.logprobs.text_offset[len(ids)] == len(text)
    last = [place for place, token_id in enumerate(ids) if tokenizer.special_piece(token_id)][-1]
    rest = tokenizer.decode(ids[last:], skip_special_tokens=skip)
    assert text[choice.logprobs.text_offset[last] :] == rest


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_special_tokens_keep_their_places_with_every_kind_of_tokenizer(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    prompt = with_special_tokens(tokenizer, rng)
    ids = tuple(tokenizer.encode(prompt))
    echo = Echo(tokenizer, Generation(Request("r", ids, SamplingParams()), "prompt"), prompt, None)
    assert len(echo.offsets()) == len(ids) and echo.offsets() == sorted(echo.offsets())
    # The first is the tokenizer's own; of the others those that the vocabulary cannot spell read <unk> or [UNK].
    for token_id, offset in list(zip(ids, echo.offsets(), strict=True))[1:]:
        special = tokenizer.special_piece(token_id)
        if special is not None and "unk" not in special.lower():
            assert prompt[offset:].lstrip().startswith(special), json.dumps([prompt, offset, special])
