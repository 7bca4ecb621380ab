"""RequestText: token deltas of many sequences in, text deltas out."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.runtime.request.deltas import FinishReason, TokenDelta
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import CompletionDelta, RequestText
from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import KINDS, byte_level, random_text

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_level())


def deltas_of(
    index: int, ids: list[int], rng: np.random.Generator, finish: FinishReason = "length", with_logprobs: bool = False
) -> list[TokenDelta]:
    """`ids` in groups, as an engine or a network might deliver them."""
    out, start = [], 0
    while start < len(ids):
        end = min(start + int(rng.integers(1, 4)), len(ids))
        group = tuple(ids[start:end])
        logprobs = tuple(TokenResult(i, -1.5, 2, ((i + 1, -0.5), (i, -1.5))) for i in group) if with_logprobs else ()
        reason = finish if end == len(ids) else None
        out.append(TokenDelta("r", index, group, logprobs, finish_reason=reason))
        start = end
    return out


def test_interleaved_sequences_keep_their_own_text(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    texts = [random_text(rng) for _ in range(4)]
    queues = [deltas_of(i, tokenizer.encode(text, False), rng) for i, text in enumerate(texts)]
    request, joined = RequestText(tokenizer, SamplingParams(n=4)), [""] * 4
    while any(queues):
        queue = queues[rng.choice([i for i, queue in enumerate(queues) if queue])]
        for completion in request.push(queue.pop(0)):
            joined[completion.index] += completion.text
    assert joined == texts
    assert request.finished


def test_after_a_stop_string_the_sequence_is_cancelled_and_silent(
    tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    request = RequestText(tokenizer, SamplingParams(stop="STOP"))
    ids = tokenizer.encode("one STOP two three four", False)
    seen: list[CompletionDelta] = []
    for delta in deltas_of(0, ids, rng):
        seen += request.push(delta)
    assert "".join(each.text for each in seen) == "one "
    assert (seen[-1].finish_reason, seen[-1].stop_reason, seen[-1].cancel) == ("stop", "STOP", True)
    assert tokenizer.decode([i for each in seen for i in each.token_ids]) == "one STOP"
    assert request.finished
    assert request.push(TokenDelta("r", 0, finish_reason="cancelled")) == []


def test_a_stop_string_in_the_last_delta_needs_no_cancelling(tokenizer: Tokenizer) -> None:
    request = RequestText(tokenizer, SamplingParams(stop="STOP"))
    ids = tuple(tokenizer.encode("one STOP", False))
    (delta,) = request.push(TokenDelta("r", 0, ids, finish_reason="length"))
    assert (delta.text, delta.finish_reason, delta.stop_reason, delta.cancel) == ("one ", "stop", "STOP", False)


@pytest.mark.parametrize("kind", ["byte_level", "unigram", "word_piece", "word_level"])
def test_each_logprob_knows_where_its_token_is_in_the_text(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    ids = tokenizer.encode("the quick brown fox jumps", False)
    request = RequestText(tokenizer, SamplingParams(logprobs=2))
    seen = [each for delta in deltas_of(0, ids, rng, with_logprobs=True) for each in request.push(delta)]
    entries = [entry for each in seen for entry in each.logprobs]
    assert [entry.token_id for entry in entries] == ids
    assert [entry.text_offset for entry in entries] == [len(tokenizer.decode(ids[:k])) for k in range(len(ids))]
    for entry in entries:
        assert entry.bytes == tokenizer.token_bytes(entry.token_id)
        assert [choice.token_id for choice in entry.top] == [entry.token_id + 1, entry.token_id]


def test_the_reason_and_error_of_the_engine_come_through(tokenizer: Tokenizer) -> None:
    request = RequestText(tokenizer, SamplingParams(n=2))
    (failed,) = request.push(TokenDelta("r", 1, finish_reason="error", error="out of memory"))
    assert (failed.finish_reason, failed.error, request.finished) == ("error", "out of memory", False)
    ended = TokenDelta("r", 0, (5,), finish_reason="stop", stop_reason=5, ended_by_token=True)
    (stopped,) = request.push(ended)
    assert (stopped.text, stopped.finish_reason, stopped.stop_reason) == ("", "stop", 5)
    assert request.finished
