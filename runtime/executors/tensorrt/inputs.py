"""One run of a TensorRT engine, as values: its integer inputs, and the part of the cache that it is bound to.

Which inputs there are depends on the layout of the cache: slots as long as a sequence (tensorrt_slots.py), or blocks
that tables list (tensorrt_blocks.py). What they mean is in build/targets/tensorrt/lowering/network.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch

Ints: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RunInputs:
    """`arrays` are the engine's integer inputs by name; its caches are blocks first_block .. first_block + num_blocks.

    `order` are the indices of the run's sequences in the step. Logit rows follow each other in that order; there is at
    least one, and `num_logit_rows` of them were asked for. `decodes`: every sequence of the run has one token.
    """

    arrays: dict[str, Ints]
    order: tuple[int, ...]
    first_block: int
    num_blocks: int
    num_logit_rows: int
    decodes: bool


class RunPlanner(Protocol):
    """How a step becomes runs. `sizes` are the most elements that each input may have."""

    sizes: dict[str, int]

    def __call__(self, batch: StepBatch) -> list[RunInputs]: ...


def logit_rows(sequences: Sequence[ScheduledSequence], starts: Sequence[int]) -> list[int]:
    """The rows whose logits are wanted, where a sequence's tokens are rows `start`, `start` + 1, ..."""
    rows: list[int] = []
    for sequence, start in zip(sequences, starts, strict=True):
        rows += range(start, start + len(sequence.prompt_targets))
        if sequence.sample_last:
            rows.append(start + len(sequence.token_ids) - 1)
    return rows


def int32(values: Sequence[int]) -> Ints:
    return np.array(values, np.int32)
