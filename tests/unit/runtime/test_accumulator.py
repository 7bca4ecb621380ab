"""Deltas added up: any split of the same tokens gives the same answer, whoever gathers them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from inflight.runtime.offline.collector import RequestCollector
from inflight.runtime.request.accumulator import PendingDeltas, add_logprobs, best_of, join_deltas
from inflight.runtime.request.deltas import FinishReason, RequestMetrics, TokenDelta
from inflight.runtime.request.outputs import RequestOutput
from inflight.runtime.request.request import Request
from inflight.runtime.request.validation import fit_max_tokens, output_room
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import Completion, RequestText
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.tensorrt_llm.generation_request import GenerationRequest, Wanted
from inflight.triton_backend.tensorrt_llm.sequence_output import SequenceOutput
from tests.models.tiny_tokenizers import byte_level, random_text

pytestmark = pytest.mark.unit

PROMPT = (1, 2, 3)
METRICS = RequestMetrics(1, 2, 3, 4, len(PROMPT), 0, 9, 1, 1, 0, 0)
History = list[TokenDelta]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_level())


def random_history(rng: np.random.Generator, tokenizer: Tokenizer, index: int, finish: FinishReason) -> History:
    """What the core publishes of a sequence: a delta for each token, and the end in the last of them or by itself."""
    ids = tokenizer.encode(random_text(rng), False) or [7]
    history = []
    for token_id in ids:
        logprob = float(np.float32(-rng.exponential()))
        result = TokenResult(token_id, logprob, int(rng.integers(1, 9)), ((token_id, logprob), (0, -9.0)))
        history.append(TokenDelta("r", index, (token_id,), (result,)))
    if index == 0:
        history[0].prompt_logprobs = (None, TokenResult(2, -0.5, 1), TokenResult(3, -1.5, 2))
    if finish in ("stop", "length"):
        end = history[-1]
        end.ended_by_token = finish == "stop"
        end.stop_reason = ids[-1] if finish == "stop" and rng.random() < 0.5 else None
        end.finish_reason, end.metrics = finish, METRICS
    else:
        error = "out of memory" if finish == "error" else None
        history.append(TokenDelta("r", index, finish_reason=finish, metrics=METRICS, error=error))
    return history


def regrouped(rng: np.random.Generator, history: History) -> History:
    """The same tokens in other deltas, as a taker that lags finds them."""
    cuts = [0, *sorted(set(rng.integers(1, len(history) + 1, int(rng.integers(0, len(history) + 1))).tolist()))]
    bounds = [*(cut for cut in cuts if cut < len(history)), len(history)]
    return [join_deltas(history[start:end]) for start, end in pairwise(bounds)]


def interleaved(rng: np.random.Generator, histories: Sequence[History]) -> History:
    queues = [list(history) for history in histories if history]
    mixed = []
    while queues:
        queue = queues[int(rng.integers(len(queues)))]
        mixed.append(queue.pop(0))
        queues = [each for each in queues if each]
    return mixed


def completed(tokenizer: Tokenizer, params: SamplingParams, deltas: History) -> list[Completion]:
    text = RequestText(tokenizer, params)
    completions = [Completion(index) for index in range(params.best_of or params.n)]
    for delta in deltas:
        for news in text.push(delta):
            completions[news.index].add(news)
    assert text.finished
    return completions


def generated(tokenizer: Tokenizer, params: SamplingParams, deltas: History, stream: bool) -> list[RequestOutput]:
    collector = RequestCollector(Request("r", PROMPT, params), "prompt", tokenizer, stream)
    for delta in deltas:
        collector.push(delta)
    assert collector.finished
    return list(collector.outputs)


def random_params(rng: np.random.Generator, text: str) -> SamplingParams:
    stop = text[(at := int(rng.integers(len(text)))) : at + 2] if text and rng.random() < 0.5 else None
    n = int(rng.integers(1, 4))
    return SamplingParams(
        n=n,
        best_of=n + int(rng.integers(0, 3)),
        logprobs=2 if rng.random() < 0.5 else None,
        prompt_logprobs=1,
        stop=stop or (),
        min_tokens=int(rng.integers(0, 5)),
        include_stop_str_in_output=bool(rng.random() < 0.3),
    )


def random_case(rng: np.random.Generator, tokenizer: Tokenizer) -> tuple[SamplingParams, list[History]]:
    params = random_params(rng, random_text(rng))
    reasons: list[FinishReason] = ["stop", "length", "cancelled", "error"]
    count = params.best_of or params.n
    histories = [random_history(rng, tokenizer, i, reasons[int(rng.integers(4))]) for i in range(count)]
    return params, histories


@pytest.mark.parametrize("round", range(30))
def test_any_split_gives_the_same_completions(tokenizer: Tokenizer, rng: np.random.Generator, round: int) -> None:
    params, histories = random_case(rng, tokenizer)
    expected = completed(tokenizer, params, interleaved(rng, histories))
    for completion, history in zip(expected, histories, strict=True):
        ids = [token_id for delta in history for token_id in delta.token_ids]
        assert completion.token_ids == ids[: len(completion.token_ids)]
        total = 0.0
        for delta in history[: len(completion.token_ids)]:
            total += sum(result.logprob for result in delta.logprobs)
        assert completion.cumulative_logprob == total
        if completion.finish_reason != "stop":
            assert completion.token_ids == ids
            assert completion.finish_reason == history[-1].finish_reason
        if not params.stop and params.min_tokens == 0 and completion.finish_reason != "stop":
            assert completion.text == tokenizer.decode(ids)
    for _ in range(5):
        split = interleaved(rng, [regrouped(rng, history) for history in histories])
        found = completed(tokenizer, params, split)
        assert [_plain(each) for each in found] == [_plain(each) for each in expected]


@pytest.mark.parametrize("round", range(30))
def test_any_split_gives_llm_the_same_output(tokenizer: Tokenizer, rng: np.random.Generator, round: int) -> None:
    params, histories = random_case(rng, tokenizer)
    (expected,) = generated(tokenizer, params, interleaved(rng, histories), stream=False)
    assert len(expected.outputs) == params.n
    assert expected.prompt_logprobs is not None and len(expected.prompt_logprobs) == len(PROMPT)
    assert expected.metrics is not None and expected.metrics.output_tokens == 9 * len(histories)
    for _ in range(5):
        split = interleaved(rng, [regrouped(rng, history) for history in histories])
        assert generated(tokenizer, params, split, stream=False) == [expected]
    streamed = generated(tokenizer, replace(params, n=params.best_of or 1), interleaved(rng, histories), stream=True)
    for index, each in enumerate(streamed[-1].outputs):
        assert "".join(output.outputs[index].text_delta for output in streamed) == each.text
    chosen = [replace(streamed[-1].outputs[each.index], text_delta=each.text) for each in expected.outputs]
    assert tuple(chosen) == expected.outputs


def _plain(completion: Completion) -> tuple[object, ...]:
    return (
        completion.index,
        completion.text,
        completion.token_ids,
        completion.logprobs,
        completion.cumulative_logprob,
        completion.finish_reason,
        completion.stop_reason,
    )


def wanted(**more: bool) -> Wanted:
    return Wanted(**{field.name: more.get(field.name, False) for field in fields(Wanted)})


@pytest.mark.parametrize("round", range(30))
def test_any_split_gives_triton_the_same_tokens(tokenizer: Tokenizer, rng: np.random.Generator, round: int) -> None:
    reasons: list[FinishReason] = ["stop", "length", "cancelled"]
    history = random_history(rng, tokenizer, 0, reasons[round % 3])
    ids = [token_id for delta in history for token_id in delta.token_ids]
    at = int(rng.integers(len(ids)))
    stop_words = (tuple(ids[at : at + 2]), (99_999,)) if rng.random() < 0.6 else ()
    params = SamplingParams(min_tokens=int(rng.integers(0, 4)))
    generation = GenerationRequest(Request("r", PROMPT, params), stop_words, wanted(end_token=bool(round % 2)))

    whole = SequenceOutput(generation, 0)
    for delta in history:
        whole.add(delta)
    expected = whole.take()
    shown = list(expected.delta.token_ids)
    assert shown == ids[: len(shown)] and whole.num_tokens == len(shown)
    assert [result.token_id for result in expected.delta.logprobs] == shown
    assert expected.delta.prompt_logprobs == history[0].prompt_logprobs
    assert expected.delta.metrics == METRICS
    ends = [
        k for k in range(1, len(ids) + 1) for w in stop_words if k >= params.min_tokens and ids[k - len(w) : k] == [*w]
    ]
    hidden = history[-1].ended_by_token and not generation.wanted.end_token
    if ends and ends[0] <= len(ids) - hidden:
        assert len(shown) == ends[0] and expected.delta.finish_reason == "stop" and expected.delta.stop_reason is None
    else:
        assert len(shown) == len(ids) - hidden and expected.delta.finish_reason == history[-1].finish_reason

    output, chunks = SequenceOutput(generation, 0), []
    for delta in regrouped(rng, history):
        output.add(delta)
        if output.has_news and rng.random() < 0.7:
            chunks.append(output.take())
    if not chunks or chunks[-1].delta.finish_reason is None:
        chunks.append(output.take())
    assert join_deltas([chunk.delta for chunk in chunks]) == expected.delta
    assert chunks[-1].cumulative_logprob == expected.cumulative_logprob
    sent: list[int] = []
    for chunk in chunks:
        assert list(chunk.context) == sent[-len(chunk.context) :] if chunk.context else not sent
        sent += chunk.delta.token_ids


def test_tokens_computed_after_a_stop_word_are_no_news() -> None:
    generation = GenerationRequest(Request("r", PROMPT, SamplingParams()), ((5, 6),), wanted())
    output = SequenceOutput(generation, 0)
    wants = []
    for ids in ((4, 5), (6, 7)):
        output.add(TokenDelta("r", 0, ids))
        wants.append(output.wants_cancel)
    assert output.take().delta.token_ids == (4, 5, 6)
    output.add(TokenDelta("r", 0, (8,)))
    wants.append(output.wants_cancel)
    assert not output.has_news
    output.add(TokenDelta("r", 0, finish_reason="cancelled", metrics=METRICS))
    assert [*wants, output.wants_cancel] == [False, True, True, False]
    last = output.take().delta
    assert (last.token_ids, last.finish_reason, last.metrics) == ((), "stop", METRICS)


def test_a_failure_comes_through_whole(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    history = random_history(rng, tokenizer, 0, "error")
    pending = PendingDeltas()
    for delta in history:
        pending.put(delta)
    (joined,) = pending.take()
    assert not pending and joined.error == "out of memory" and joined.finish_reason == "error"
    output = SequenceOutput(GenerationRequest(Request("r", PROMPT, SamplingParams()), (), wanted()), 0)
    output.add(joined)
    assert output.finished and str(output.failure) == "out of memory"


@pytest.mark.parametrize("round", range(20))
def test_the_best_are_the_likeliest_and_of_equals_the_first(rng: np.random.Generator, round: int) -> None:
    values = rng.choice([-3.0, -2.0, -1.0, -np.inf], int(rng.integers(2, 9))).tolist()
    completions = []
    for index, value in enumerate(values):
        completions.append(Completion(index))
        completions[-1].cumulative_logprob = value
    n = int(rng.integers(1, len(values)))
    expected = [pair[1] for pair in sorted((-value, index) for index, value in enumerate(values))][:n]
    shuffled = [completions[place] for place in rng.permutation(len(values)).tolist()]
    assert [each.index for each in best_of(shuffled, n)] == expected
    assert best_of(shuffled, len(shuffled)) == shuffled


def test_the_sum_of_logprobs_does_not_depend_on_the_grouping(rng: np.random.Generator) -> None:
    values = [float(np.float32(value)) for value in -rng.exponential(size=200) * 10.0 ** rng.integers(-6, 6, 200)]
    results = [TokenResult(0, value) for value in values]
    expected = add_logprobs(None, results)
    assert expected is not None and math.isclose(expected, math.fsum(values), rel_tol=1e-12)
    for _ in range(20):
        total, start = None, 0
        while start < len(results):
            end = start + int(rng.integers(1, 50))
            total = add_logprobs(total, results[start:end])
            start = end
        assert total == expected
    assert add_logprobs(None, []) is None


@pytest.mark.parametrize("round", range(50))
def test_the_room_for_an_answer(rng: np.random.Generator, round: int) -> None:
    total, prompt = (int(value) for value in rng.integers(1, 20, 2))
    max_tokens = int(rng.integers(1, 20)) if rng.random() < 0.7 else None
    possible = [count for count in range(1, 20) if prompt + count <= total and count <= (max_tokens or 20)]
    fits = bool(possible) and (max_tokens is None or possible[-1] == max_tokens)
    assert output_room(prompt, max_tokens, total) == (possible[-1] if fits else None)
    params = SamplingParams(max_tokens=max_tokens, min_tokens=min(3, max_tokens or 3))
    fitted = fit_max_tokens(params, prompt, total)
    assert fitted.max_tokens == (None if max_tokens is None else possible[-1] if possible else 1)
    assert fitted.min_tokens <= (fitted.max_tokens or 3)
