"""A step as runs of a TensorRT engine: which sequences run together, and their logits put back in the step's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.executors.tensorrt_inputs import RunInputs, run_inputs, slot_of
from inflight.runtime.step import StepBatch, StepOutput

Floats: TypeAlias = npt.NDArray[np.float32]
# Logits [num_logit_rows, vocab] of one run.
Run: TypeAlias = Callable[[RunInputs], Floats]


def execute_step(batch: StepBatch, max_rows: int, run: Run) -> tuple[StepOutput, Floats]:
    """The step's results, and its logits [logit rows, vocab] before any adjustment. `max_rows`: see split_step."""
    logits: dict[int, Floats] = {}
    for chosen in split_step(batch, max_rows):
        inputs = run_inputs(batch, chosen)
        rows = [batch.sequences[index].num_logit_rows for index in inputs.order]
        pieces = np.split(run(inputs), np.cumsum(rows)[:-1])
        logits.update(zip(inputs.order, pieces, strict=True))
    ordered = [logits[index] for index in range(len(batch.sequences))]
    results = [sequence_result(*pair) for pair in zip(batch.sequences, ordered, strict=True)]
    return StepOutput.of(results), np.concatenate(ordered)


def split_step(batch: StepBatch, max_rows: int) -> list[tuple[int, ...]]:
    """Indices of sequences that run together: all single tokens at once, then longer pieces of prompts.

    Attention reads padded rows: so many for each slot from the run's first to its last as its longest piece has tokens.
    Neighbouring pieces run together as long as that is no more than `max_rows`.
    """
    by_slot = sorted(range(len(batch.sequences)), key=lambda index: slot_of(batch.sequences[index]))
    single: list[int] = []
    longer: list[list[int]] = []
    for index in by_slot:
        if len(batch.sequences[index].token_ids) == 1:
            single.append(index)
        elif longer and _padded_rows(batch, [*longer[-1], index]) <= max_rows:
            longer[-1].append(index)
        else:
            longer.append([index])
    return [tuple(run) for run in (single, *longer) if run]


def _padded_rows(batch: StepBatch, run: Sequence[int]) -> int:
    sequences = [batch.sequences[index] for index in run]
    num_slots = slot_of(sequences[-1]) - slot_of(sequences[0]) + 1
    return num_slots * max(len(sequence.token_ids) for sequence in sequences)
