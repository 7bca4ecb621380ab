"""What is counted of each slot's tokens on the device, under the scheduler: every token is the host's choice."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inflight.engine_format.gpu_artifact import Artifact
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.cuda.executor import CudaExecutor, SubmittedStep
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
from tests.kernel.gpu.support.cuda_sampling import counts_of
from tests.oracles.gpu.interpreted_launches import InterpretedBackend
from tests.pipeline.targets.cuda_engine import CudaEngine
from tests.pipeline.targets.cuda_steps import LIMITS
from tests.pipeline.targets.judged_steps import Floats, Judged, random_params

pytestmark = pytest.mark.pipeline

VOCAB = 97
# Fewer than all slots need, so that some are preempted.
BLOCKS = 6
# Filters have launches of their own, which take most of the time.
UNFILTERED: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "logprobs": None}


class ChoosingBackend(InterpretedBackend):
    """Tokens alone are computed: each step's logits are drawn anew, of few values, so that penalties decide."""

    def __init__(self, kernels: Mapping[int, list[Artifact]]) -> None:
        super().__init__(kernels)
        self.logits: Floats | None = None
        self.rng = np.random.default_rng()

    def interpret(self, kernel: int, arguments: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        name = self._kernels[kernel].kernel
        if name == "sampled_tokens" and self.logits is not None:
            self.logits[:] = self.rng.integers(-3, 4, self.logits.shape)
        if name.startswith("sampl"):
            super().interpret(kernel, arguments, sizes)


class Counted(Judged):
    """Behind each step, what is counted is what is in the history, with what the step chose."""

    def __init__(self, inner: CudaExecutor) -> None:
        super().__init__(inner)
        operands = [each.operands for each in inner._list.sampling.launches if "counts" in each.operands]
        self._counts: Any = self._memory("planes", operands[0]["counts"].at, np.int32, LIMITS["max_batch_size"], VOCAB)
        offset = inner._layouts["results"].offsets["tokens"]
        self._chosen: Any = self._memory("results", offset, np.int32, 1, LIMITS["max_logit_rows"])[0]
        self._before: SubmittedStep | None = None
        self._newest: list[int] = []

    def submit(self, batch: StepBatch) -> SubmittedStep:
        submitted = super().submit(batch)
        before, self._before = self._before, submitted
        newest = self._newest if before is None or before.output is None else before.output.token_ids
        self._newest = [int(self._chosen[row]) for row in submitted.choices]
        for sequence, token in zip(submitted.sequences, self._newest, strict=True):
            if submitted.sampled_on_host or sequence.sampling is None or not sequence.sampling.needs_history:
                continue
            known = sequence if sequence.follows < 0 else sequence.with_token(int(newest[sequence.follows] or 0))
            expected = counts_of((*known.history, token), sequence.prompt_length, VOCAB)
            assert np.array_equal(self._counts[sequence.slot], expected)
        return submitted

    def _memory(self, place: str, at: int, dtype: Any, rows: int, width: int) -> Any:
        """Of the device, by rows."""
        address, size = self.inner._addresses[place] + at, rows * width * np.dtype(dtype).itemsize
        memory: Any = (ctypes.c_char * size).from_address(address)
        return np.frombuffer(memory, dtype).reshape(rows, width)

    def draw_logits(self, rng: np.random.Generator) -> None:
        """Before each step, from now on."""
        backend: Any = self.inner._backend
        backend.logits = self._memory("arena", self.inner._list.logits, np.float32, LIMITS["max_logit_rows"], VOCAB)
        backend.rng = rng


@pytest.fixture
def judged(built: CudaEngine, rng: np.random.Generator) -> Counted:
    """An executor that computes no network."""
    manifest = read_engine_directory(built.directory).manifest
    judged = Counted(CudaExecutor(built.directory, manifest, BLOCKS, ChoosingBackend))
    judged.draw_logits(rng)
    return judged


def random_request(
    rng: np.random.Generator, name: str, params: SamplingParams | None = None, prompt: int = 0
) -> Request:
    """Without `params`, with penalties or none, of two sequences or one; `prompt`: its length."""
    penalties = {
        "repetition_penalty": float(rng.choice([1.0, 1.3])),
        "frequency_penalty": float(rng.choice([0.0, 0.5, -0.4])),
        "presence_penalty": float(rng.choice([0.0, 1.5])),
    }
    params = params or random_params(
        rng,
        **(penalties if rng.random() < 0.8 else {}),
        **UNFILTERED,
        n=int(rng.integers(1, 3)),
        max_tokens=int(rng.integers(1, 30)),
        ignore_eos=bool(rng.integers(2)),
        stop_token_ids=(int(rng.integers(VOCAB)),),
    )
    length = prompt or int(rng.integers(1, 30))
    return Request(name, tuple(rng.integers(12, size=length).tolist()), params)


def test_histories_of_requests_with_penalties(judged: Counted, rng: np.random.Generator) -> None:
    """Slots that are used again, preemptions, cancellations, two steps under way, steps that the host samples."""
    core = EngineCore(judged, SchedulerConfig(policy="max_utilization", enable_prefix_caching=bool(rng.integers(2))))
    coming = [random_request(rng, str(number)) for number in range(8)]
    # The host samples what runs beside it.
    watermark = random_params(rng, **UNFILTERED, frequency_penalty=0.4, watermark_delta=2.0, max_tokens=9)
    coming.insert(4, random_request(rng, "watermark", watermark, prompt=4))
    # Together they are longer than the cache,.
    longest = random_params(rng, **UNFILTERED, repetition_penalty=1.2, max_tokens=28)
    coming += [random_request(rng, name, longest, prompt=20) for name in "abc"]
    while coming or core.has_unfinished():
        if coming and rng.random() < 0.4:
            core.add_request(coming.pop())
        if rng.random() < 0.02:
            core.cancel(str(rng.integers(8)), index=[None, 0, 1][int(rng.integers(3))])
        core.step()
    core.check_integrity()
    assert core.stats().preemptions > 0
    assert min(judged.ahead, judged.on_device, judged.on_host) >= 9
    judged.close()


def test_what_is_counted_is_not_counted_again(judged: Counted, rng: np.random.Generator) -> None:
    """Nor is another's history, or one that was computed further before, taken for what a slot has."""
    sampling = RowSampling(repetition_penalty=1.5, frequency_penalty=0.25)
    taken: list[int] = []
    counts: Any = judged.inner._counts
    count = counts.take

    def take(*given: Any) -> Any:
        uncounted = count(*given)
        taken.append(len(uncounted.tokens))
        return uncounted

    counts.take = take
    history = rng.integers(VOCAB, size=20).tolist()

    def step(tokens: list[int]) -> int:
        record = ScheduledSequence(
            *(2, tokens[-1:], len(tokens) - 1, [0, 1], sampling), sample_last=True, prompt_length=9, history=tokens
        )
        (token,) = judged.execute(StepBatch([record])).token_ids
        assert token is not None
        return token

    for _ in range(3):
        history.append(step(history))
    assert taken == [20, 0, 0]
    step(history)
    step(history)
    other = history.copy()
    other += [step(other), 6]
    assert taken[3:] == [0, 23, 23], "what was chosen and not taken is not in the history"
    step(other)
    assert taken[6:] == [1], "a token may be put behind what was chosen"
    judged.close()


def test_a_record_follows_what_the_host_has_sampled(judged: Counted, rng: np.random.Generator) -> None:
    """A slot is filled with a token that is in no history yet, and a watermark knows the token behind which it is."""
    penalized = RowSampling(repetition_penalty=1.4, frequency_penalty=0.3)
    marked = RowSampling(temperature=1.0, watermark_delta=3.0, seed=int(rng.integers(2**63)), frequency_penalty=0.3)
    records = []
    for slot, sampling in enumerate((penalized, marked)):
        tokens = rng.integers(VOCAB, size=18).tolist()
        record = ScheduledSequence(slot, tokens[-1:], 17, [2 * slot, 2 * slot + 1], sampling, True, 9, tokens)
        records.append(record)
    following = [replace(record, token_ids=(0,), start=18, follows=place) for place, record in enumerate(records)]
    for both in (following, [replace(following[0])]):
        first = judged.submit(StepBatch(records))
        second = judged.submit(StepBatch(both))
        judged.collect(first)
        judged.collect(second)
    assert judged.on_host == 3 and judged.on_device == 1
    judged.close()
