"""A step as runs of a TensorRT engine, and their logits put back in the step's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.executors.tensorrt.inputs import RunInputs
from inflight.runtime.scheduler.step import StepBatch, StepOutput

Floats: TypeAlias = npt.NDArray[np.float32]
# Logits [num_logit_rows, vocab] of one run.
Run: TypeAlias = Callable[[RunInputs], Floats]


def execute_step(batch: StepBatch, runs: Iterable[RunInputs], run: Run) -> tuple[StepOutput, Floats]:
    """The step's results, and its logits [logit rows, vocab] before any adjustment. `runs`: see RunPlanner."""
    logits: dict[int, Floats] = {}
    for inputs in runs:
        rows = [batch.sequences[index].num_logit_rows for index in inputs.order]
        pieces = np.split(run(inputs), np.cumsum(rows)[:-1])
        logits.update(zip(inputs.order, pieces, strict=True))
    ordered = [logits[index] for index in range(len(batch.sequences))]
    results = [sequence_result(*pair) for pair in zip(batch.sequences, ordered, strict=True)]
    return StepOutput.of(results), np.concatenate(ordered)
