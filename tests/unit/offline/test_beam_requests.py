"""Beam search of requests to an engine that serves others too: what LLM.beam_search finds, to the bit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inflight.errors import OverloadedError, RequestError
from inflight.runtime import LLM, BeamSearchParams, SamplingParams
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from inflight.runtime.text.tokenizer import TokenIdsOnly
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit

END = 5


class Gated(NullExecutor):
    """Waits for the gate before each step, and fails when told to."""

    gate: threading.Event
    failure: BaseException | None = None

    def execute(self, batch: StepBatch) -> StepOutput:
        assert self.gate.wait(PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        return super().execute(batch)


def executor(**limits: Any) -> Gated:
    limits = {"vocab_size": 40, "max_seq_len": 64, "max_num_tokens": 64, "tokens_per_block": 4} | limits
    manifest = null_manifest(**{"max_batch_size": 8, **limits})
    generation = manifest.generation.__class__(**{**_fields(manifest.generation), "end_token_ids": (END,)})
    made = Gated(manifest.__class__(**{**_fields(manifest), "generation": generation}), 256)
    made.gate = threading.Event()
    made.gate.set()
    return made


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


@pytest.fixture
def engine() -> Iterator[EngineThread]:
    thread = EngineThread(EngineCore(executor()))
    yield thread
    thread.close()
    assert thread.failure is None
    assert thread.stats().running == thread.stats().waiting == thread.stats().used_blocks == 0


def request(name: str, prompt: tuple[int, ...], width: int, **params: Any) -> Request:
    beams = {"use_beam_search": True, "best_of": width, "n": width}
    params = {"temperature": 0, "logprobs": 0, "max_tokens": 8} | beams | params
    return Request(name, prompt, SamplingParams(**params), (END,))


def answers(requests: list[Request], engine: EngineThread) -> dict[str, list[TokenDelta]]:
    inbox: queue.Queue[TokenDelta] = queue.Queue()
    for each in requests:
        engine.submit(each, inbox.put)
    deltas = [inbox.get(timeout=PATIENCE_S) for _ in range(sum(each.num_sequences for each in requests))]
    found: dict[str, list[TokenDelta]] = {each.request_id: [] for each in requests}
    for delta in deltas:
        assert delta.index == len(found[delta.request_id]), "the best comes first"
        found[delta.request_id].append(delta)
    return found


def test_a_search_finds_what_the_offline_one_finds_whatever_runs_beside_it(
    engine: EngineThread, rng: np.random.Generator
) -> None:
    requests = []
    for number in range(6):
        prompt = tuple(rng.integers(40, size=int(rng.integers(1, 30))).tolist())
        more = {"length_penalty": float(rng.choice([0.0, 1.0, -1.0])), "ignore_eos": bool(rng.random() < 0.3)}
        requests.append(request(f"beams{number}", prompt, int(rng.integers(1, 6)), max_tokens=number + 3, **more))
    others = [
        Request(f"other{number}", (1, 2, number), SamplingParams(max_tokens=20, logprobs=0, seed=3), (END,))
        for number in range(4)
    ]
    gathered: queue.Queue[TokenDelta] = queue.Queue()
    for each in others:
        engine.submit(each, gathered.put)
    found = answers(requests, engine)
    with LLM.from_executor(executor(), TokenIdsOnly()) as llm:
        for each in requests:
            assert each.beams is not None and each.params.max_tokens is not None
            params = BeamSearchParams(
                each.beams.width,
                each.params.max_tokens,
                ignore_eos=each.params.ignore_eos,
                length_penalty=each.beams.length_penalty,
            )
            (output,) = llm.beam_search([{"prompt_token_ids": list(each.prompt_token_ids)}], params)
            deltas = found[each.request_id]
            assert len(output.sequences) == len(deltas)
            for sequence, delta in zip(output.sequences, deltas, strict=True):
                assert (*each.prompt_token_ids, *delta.token_ids) == tuple(sequence.tokens)
                assert delta.finish_reason == sequence.finish_reason
                assert delta.ended_by_token == (sequence.stop_reason is not None)
                own = [entry[token].logprob for entry, token in zip(sequence.logprobs, delta.token_ids, strict=True)]
                assert [result.logprob for result in delta.logprobs] == own
                assert delta.metrics is not None and delta.metrics.output_tokens == len(delta.token_ids)


def test_the_best_of_a_search_alone_are_given_when_fewer_are_wanted(engine: EngineThread) -> None:
    five = request("five", (7, 8, 9), 5)
    two = replace(five, request_id="two", params=replace(five.params, n=2, logprobs=None))
    found = answers([five, two], engine)
    assert [delta.token_ids for delta in found["two"]] == [delta.token_ids for delta in found["five"][:2]]
    assert all(delta.logprobs == () for delta in found["two"])


def test_sampling_params_ask_for_beams_as_in_vllms_first_versions(rng: np.random.Generator) -> None:
    prompts = [{"prompt_token_ids": rng.integers(40, size=int(rng.integers(1, 20))).tolist()} for _ in range(3)]
    beams = SamplingParams(
        n=2, best_of=4, use_beam_search=True, temperature=0, max_tokens=7, length_penalty=0.7, logprobs=0
    )
    plain = SamplingParams(temperature=0, max_tokens=7)
    with LLM.from_executor(executor(), TokenIdsOnly()) as llm:
        outputs = llm.generate([*prompts, prompts[0]], [beams, beams, beams, plain], use_tqdm=False)
        found = llm.beam_search(prompts, BeamSearchParams(4, 7, length_penalty=0.7))
        (alone,) = llm.generate(prompts[0], plain, use_tqdm=False)
        for wrong in ({"stream": True}, {}):
            with pytest.raises(RequestError, match="streamed" if wrong else "this engine takes 64"):
                long = replace(beams, max_tokens=64)
                llm.generate(prompts[0], beams if wrong else long, use_tqdm=False, **wrong)  # type: ignore[call-overload]
    assert outputs[3].outputs == alone.outputs
    for prompt, output, search in zip(prompts, outputs, found, strict=False):
        for completion, sequence in zip(output.outputs, search.sequences[:2], strict=True):
            assert [*prompt["prompt_token_ids"], *completion.token_ids] == sequence.tokens
            assert completion.cumulative_logprob == sequence.cum_logprob
            assert completion.finish_reason == sequence.finish_reason
            assert completion.logprobs is not None and len(completion.logprobs) == len(completion.token_ids)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.5}, "temperature is 0.5; beam search takes the likeliest"),
    ({"top_k": 3}, "top_k is 3"),
    ({"repetition_penalty": 1.5}, "repetition_penalty is 1.5"),
    ({"stop_token_ids": [3]}, "stop_token_ids"),
    ({"watermark_delta": 2.0}, "watermark_delta"),
    ({"logprobs": 2}, "logprobs is 2"),
    ({"n": 4}, "best_of is 3; it must be at least n, 4"),
    ({"max_tokens": 64}, "this engine takes 64 in all"),
]


@pytest.mark.parametrize(("params", "words"), WRONG, ids=str)
def test_what_it_cannot_do_is_refused_by_name(engine: EngineThread, params: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        engine.submit(request("wrong", (1, 2), 3, **params), lambda delta: None)
    with pytest.raises(RequestError, match="vocabulary has 40"):
        engine.submit(request("wrong", (1, 40), 3), lambda delta: None)
    assert answers([request("wrong", (1, 2), 3)], engine), "its id is free"


def test_a_cancelled_search_ends_with_what_it_has() -> None:
    gated = executor()
    engine = EngineThread(EngineCore(gated))
    inbox: queue.Queue[TokenDelta] = queue.Queue()
    gated.gate.clear()
    engine.submit(request("long", (1, 2, 3), 3, max_tokens=60), inbox.put)
    with pytest.raises(RequestError, match="A request with the id long is running"):
        engine.submit(request("long", (1, 2, 3), 3), inbox.put)
    engine.cancel("long")
    gated.gate.set()
    deltas = [inbox.get(timeout=PATIENCE_S) for _ in range(3)]
    assert {delta.finish_reason for delta in deltas} == {"cancelled"}
    assert engine.stats().running == engine.stats().waiting == 0
    engine.close()


@pytest.mark.parametrize("ending", ["closed", "failed"])
def test_no_search_is_left_without_an_end(ending: str) -> None:
    gated = executor()
    engine = EngineThread(EngineCore(gated))
    inbox: queue.Queue[TokenDelta] = queue.Queue()
    started = threading.Event()
    calls: Callable[[TokenDelta], None] = inbox.put
    engine.after_steps(started.set)
    engine.submit(request("long", (1, 2, 3), 3, max_tokens=60), calls)
    assert started.wait(PATIENCE_S)
    if ending == "failed":
        gated.failure = RuntimeError("out of order")
    engine.close() if ending == "closed" else None
    deltas = [inbox.get(timeout=PATIENCE_S) for _ in range(3)]
    reasons = {delta.finish_reason for delta in deltas}
    assert reasons <= ({"stop", "cancelled", "length"} if ending == "closed" else {"error"})
    if ending == "failed":
        assert all(delta.error and "out of order" in delta.error for delta in deltas)
    engine.close()


def test_a_search_keeps_its_place_in_a_full_queue() -> None:
    """It is accepted or refused once; later steps come before those who came after it."""
    gated = executor(max_batch_size=1)
    engine = EngineThread(EngineCore(gated, SchedulerConfig(max_queue_size=2)))
    inbox: queue.Queue[TokenDelta] = queue.Queue()
    gated.gate.clear()
    engine.submit(request("search", (1, 2, 3), 2, max_tokens=4), inbox.put)
    engine.submit(Request("late", (1, 2), SamplingParams(max_tokens=2, seed=1), (END,)), inbox.put)
    with pytest.raises(OverloadedError):
        for number in range(3):
            engine.submit(request(f"later{number}", (1, 2, 3), 2, max_tokens=2, n=2), inbox.put)
    gated.gate.set()
    finished: list[str] = []
    while not {"search", "late"} <= set(finished):
        delta = inbox.get(timeout=PATIENCE_S)
        if delta.finish_reason is not None:
            assert delta.finish_reason in ("stop", "length")
            finished.append(delta.request_id)
    engine.close()
