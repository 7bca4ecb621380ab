"""Steps of cuda engines: what is sampled on the device, two steps under way, and launches that are recorded."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from inflight.errors import EngineError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.kernel.cpu.test_sampling import random_mask
from tests.patience import PATIENCE_S

pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
from tests.oracles.gpu.interpreted_launches import open_interpreted
from tests.oracles.gpu.recorded_launches import NotingBackend
from tests.pipeline.targets.cuda_engine import CudaEngine
from tests.pipeline.targets.cuda_steps import BLOCKS, chunk
from tests.pipeline.targets.judged_steps import Judged, random_params, serve

pytestmark = pytest.mark.pipeline

VOCAB = 97


def test_tokens_are_those_of_the_host_and_the_next_step_computes_them(
    built: CudaEngine, rng: np.random.Generator
) -> None:
    """Every kind of sampling under the scheduler, with steps that begin before the tokens of the one before are read.
    One request asks for what is sampled on the host, and ends first; five rows are computed as six."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 1.0, "typical_p": 0.9, "max_tokens": 3},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "prompt_logprobs": 2},
        {"logit_bias": {int(rng.integers(VOCAB)): 5.0, int(rng.integers(VOCAB)): float("-inf")}},
        {},
        {"max_tokens": 6},
    ]
    requests = [
        Request(str(number), tuple(built.prompt(rng, int(rng.integers(2, 5)))), random_params(rng, **kind))
        for number, kind in enumerate(kinds)
    ]
    judged = Judged(open_interpreted(built.directory, BLOCKS))
    tokens = serve(EngineCore(judged), requests)
    assert judged.ahead >= 3 and judged.on_host >= 2 and judged.on_device >= 2
    slots = dict(enumerate(requests))
    for slot, request in slots.items():
        assert len(tokens[request.request_id]) == request.params.max_tokens
        prompt = list(request.prompt_token_ids)
        expected = built.case.expected(prompt + tokens[request.request_id])[len(prompt) - 1 : -1]
        got = np.stack(judged.logits[slot])[: len(expected)]
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    judged.close()


def test_penalties_bans_and_masks_are_inputs_of_rows(built: CudaEngine, rng: np.random.Generator) -> None:
    """Bans are made of what was chosen before: nothing is scheduled ahead of their tokens."""
    requests = [
        Request("penalties", tuple(built.prompt(rng, 3)), random_params(rng, repetition_penalty=1.3, max_tokens=3)),
        Request("bans", tuple(built.prompt(rng, 2)), random_params(rng, min_tokens=3, stop_token_ids=(5, 6))),
    ]
    judged = Judged(open_interpreted(built.directory, BLOCKS))
    serve(EngineCore(judged), requests)
    assert judged.ahead == 0 and judged.on_host == 0
    masked = chunk(0, built.prompt(rng, 3), [1], prompt=3)
    masked.sampling = RowSampling(temperature=1.0, top_k=9, frequency_penalty=0.5, seed=int(rng.integers(2**63)))
    masked.history, masked.banned = masked.token_ids, (3,)
    while masked.allowed is None:
        masked.allowed = random_mask(rng, VOCAB)
    judged.execute(StepBatch([chunk(1, built.prompt(rng, 2), [2], prompt=2), masked]))
    assert judged.on_host == 0
    judged.close()


@pytest.fixture
def noting(built: CudaEngine) -> tuple[CudaExecutor, NotingBackend]:
    """An executor whose launches are noted, not run."""
    executor = CudaExecutor(built.directory, read_engine_directory(built.directory).manifest, BLOCKS, NotingBackend)
    backend: Any = executor._backend
    backend.take()
    return executor, backend


def decode(rng: np.random.Generator, count: int) -> list[ScheduledSequence]:
    """A generated token of each, somewhere in its second block."""
    starts = rng.integers(16, 32, count)
    blocks = rng.permutation(BLOCKS).reshape(-1, 2)
    return [
        ScheduledSequence(
            *(slot, [int(rng.integers(VOCAB))], int(start), blocks[slot].tolist(), RowSampling()),
            sample_last=True,
            prompt_length=9,
        )
        for slot, start in enumerate(starts)
    ]


def test_a_recorded_step_makes_the_very_launches_of_the_first_one(
    noting: tuple[CudaExecutor, NotingBackend], rng: np.random.Generator
) -> None:
    """What changes is one array: the step's integers."""
    executor, backend = noting
    steps = []
    for _ in range(4):
        executor.execute(StepBatch(decode(rng, 5)))
        steps.append(backend.take())
    assert (backend.recordings, backend.replays) == (1, 3)
    (first, written), *later = steps
    assert {sizes["rows"] for _, _, sizes in first if "items" in sizes} == {6}
    for launched, also_written in later:
        assert launched == first
        assert [address for address, _ in also_written] == [address for address, _ in written]
        assert also_written[0] != written[0], "the positions and tokens are others"
    executor.execute(StepBatch(decode(rng, 4)))
    assert backend.take()[0] != first
    assert backend.recordings == 1, "a number of rows that came once is not recorded"


def test_steps_with_prompts_are_launched_one_by_one(
    built: CudaEngine, noting: tuple[CudaExecutor, NotingBackend], rng: np.random.Generator
) -> None:
    executor, backend = noting
    for _ in range(3):
        executor.execute(StepBatch([chunk(0, built.prompt(rng, 5), [1], prompt=5)]))
    assert backend.recordings == 0


def test_only_tokens_come_back(noting: tuple[CudaExecutor, NotingBackend], rng: np.random.Generator) -> None:
    """And the launches of filters, lists and reports are made where a row needs them."""
    executor, backend = noting
    read = backend.read_bytes

    def kernels(**values: Any) -> list[str]:
        read.clear()
        (record,) = decode(rng, 1)
        record.sampling = RowSampling(**values)
        record.history = [1] * (record.start + 1)
        executor.execute(StepBatch([record]))
        return [name for name, _, sizes in backend.take()[0] if "vocab" in sizes or name == "greatest_tokens"]

    chain = ["sampling_adjust", "sampling_draw"]
    assert kernels() == ["greatest_tokens"] and sum(read) == 4
    assert kernels(temperature=0.0, top_k=3, top_p=0.5) == ["greatest_tokens"], "a greedy row needs no filter"
    assert "sampling_narrow" not in kernels(temperature=1.0) and sum(read) == 4
    assert kernels(temperature=1.0, top_k=3).count("sampling_narrow") == 8
    assert kernels(presence_penalty=1.0) == ["sampling_forget", "sampling_count", *chain]
    assert kernels(bias=((3, 1.0),)) == ["sampling_scatter", *chain]
    assert "sampling_report" in kernels(num_logprobs=2)
    assert kernels(watermark_delta=1.0) == [] and sum(read) == 4 * VOCAB


def test_steps_of_greedy_rows_choose_what_their_logits_say(built: CudaEngine, rng: np.random.Generator) -> None:
    """Logits that somebody asks for say the same. Of prompts with generated tokens, and of these alone."""
    executor = open_interpreted(built.directory, BLOCKS)
    sequences = [built.prompt(rng, length) for length in (5, 6)]
    for starts in ((0, 0), (4, 5)):
        records = [
            ScheduledSequence(slot, tokens[start:], start, [slot], RowSampling(), sample_last=True, prompt_length=3)
            for slot, (tokens, start) in enumerate(zip(sequences, starts, strict=True))
        ]
        chosen = list(executor.execute(StepBatch(records)).token_ids)
        output, logits = executor.execute_with_logits(StepBatch(records))
        assert chosen == list(output.token_ids) == logits.argmax(axis=1).tolist()
    executor.close()


def test_a_third_step_waits_for_the_first(noting: tuple[CudaExecutor, NotingBackend], rng: np.random.Generator) -> None:
    executor, _ = noting
    first = executor.submit(StepBatch(decode(rng, 2)))
    second = executor.submit(StepBatch(decode(rng, 2)))
    with pytest.raises(EngineError, match="collect the first"):
        executor.submit(StepBatch(decode(rng, 2)))
    for each in (first, second):
        executor.collect(each)
    executor.collect(executor.submit(StepBatch(decode(rng, 2))))


def test_a_gpu_that_is_lost_amid_a_step_answers_everybody_with_the_cause(
    built: CudaEngine, noting: tuple[CudaExecutor, NotingBackend], rng: np.random.Generator
) -> None:
    executor, backend = noting
    waits = iter(range(3))

    def wait_for(mark: Any) -> None:
        if next(waits, None) is None:
            raise EngineError("CUDA's cudaEventSynchronize failed: unspecified launch failure.", "Start it again.")

    backend.wait_for = wait_for  # type: ignore[method-assign]
    engine = EngineThread(EngineCore(executor))
    ended: SimpleQueue[TokenDelta] = SimpleQueue()
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    requests = [Request(name, tuple(built.prompt(rng, 3)), params) for name in "abc"]
    engine.submit_all(requests, lambda delta: ended.put(delta) if delta.finish_reason else None)
    deltas = [ended.get(timeout=PATIENCE_S) for _ in "abc"]
    assert {delta.finish_reason for delta in deltas} == {"error"}
    assert all(delta.error and "unspecified launch failure" in delta.error for delta in deltas)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        executor.submit(StepBatch(decode(rng, 1)))
