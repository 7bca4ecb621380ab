"""Steps of cuda engines under the scheduler, each of which the host samples once more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.cuda.executor import CudaExecutor, SubmittedStep
from inflight.runtime.executors.cuda.step_arrays import logits_by_sequence
from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import SequenceResult, StepBatch, StepOutput
from tests.kernel.cpu.test_sampling import assert_same

Floats = npt.NDArray[np.float32]


class Judged:
    """A cuda executor whose every step is sampled once more on the host, from the logits that it computed. Without
    `overlaps` it takes one step at a time. `logits`: those of each sequence's choices, by its slot; `ahead`: steps that
    were submitted before the tokens that they compute were known."""

    def __init__(self, inner: CudaExecutor) -> None:
        self.inner, self.manifest, self.num_blocks = inner, inner.manifest, inner.num_blocks
        self.logits: dict[int, list[Floats]] = defaultdict(list)
        self.tokens: Sequence[int | None] = ()
        self.ahead = self.on_host = self.on_device = 0

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.collect(self.submit(batch))

    def submit(self, batch: StepBatch) -> SubmittedStep:
        self.ahead += any(each.follows >= 0 for each in batch.unmasked)
        return self.inner.submit(batch, with_logits=True)

    def collect(self, submitted: SubmittedStep) -> StepOutput:
        self.on_host += submitted.sampled_on_host
        self.on_device += not submitted.sampled_on_host
        output = self.inner.collect(submitted)
        assert submitted.logits is not None
        rows = logits_by_sequence(submitted.sequences, submitted.logits.copy())
        for sequence, row, result in zip(submitted.sequences, rows, output.results, strict=True):
            newest = self.tokens[sequence.follows] if sequence.follows >= 0 else None
            known = sequence if newest is None else sequence.with_token(newest)
            assert_results(result, sequence_result(known, row))
            if sequence.sample_last:
                self.logits[sequence.slot].append(row[-1])
        self.tokens = output.token_ids
        return output

    def close(self) -> None:
        self.inner.close()


def assert_results(actual: SequenceResult, expected: SequenceResult) -> None:
    pairs = [*zip(actual.prompt, expected.prompt, strict=True), (actual.sampled, expected.sampled)]
    for ours, theirs in pairs:
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert_same(ours, theirs)


def random_params(rng: np.random.Generator, **values: Any) -> SamplingParams:
    pick = rng.choice
    return SamplingParams(
        **{
            "temperature": float(pick([0.0, 0.7, 1.5])),
            "top_k": int(pick([0, 5, 40])),
            "top_p": float(pick([1.0, 0.8])),
            "min_p": float(pick([0.0, 0.05])),
            "seed": int(rng.integers(2**31)),
            "logprobs": [None, 0, 3][int(rng.integers(3))],
            "ignore_eos": True,
            "max_tokens": 4,
            **values,
        }
    )


def serve(core: EngineCore, requests: list[Request]) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        core.add_request(request)
    while core.has_unfinished():
        for delta in core.step():
            tokens[delta.request_id] += delta.token_ids
    return tokens
