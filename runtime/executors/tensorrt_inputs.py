"""The inputs of one run of a TensorRT engine: where rows, sequences and slots lie (build/targets/tensorrt/network.py).

An engine of this target has linear caches: a KV block is as long as a sequence may be, and a sequence's one block is
its slot. A run covers a range of neighbouring slots; those without a sequence in it get no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.step import ScheduledSequence, StepBatch

Ints: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RunInputs:
    """One run. `arrays` are the engine's integer inputs by name; slots first_slot .. first_slot + num_slots - 1.

    `order` are the indices of the run's sequences in the step, by slot. Logit rows follow each other in that order;
    there is at least one, and `num_logit_rows` of them were asked for.
    """

    arrays: dict[str, Ints]
    order: tuple[int, ...]
    first_slot: int
    num_slots: int
    num_logit_rows: int


def slot_of(sequence: ScheduledSequence) -> int:
    return sequence.block_table[0]


def run_inputs(batch: StepBatch, chosen: Sequence[int]) -> RunInputs:
    """The inputs of a run of the `chosen` sequences of a step; no two have the same slot."""
    order = sorted(chosen, key=lambda index: slot_of(batch.sequences[index]))
    sequences = [batch.sequences[index] for index in order]
    first = slot_of(sequences[0])
    num_slots = slot_of(sequences[-1]) - first + 1
    counts, starts = np.zeros(num_slots, np.int32), np.zeros(num_slots, np.int32)
    for sequence in sequences:
        counts[slot_of(sequence) - first] = len(sequence.token_ids)
        starts[slot_of(sequence) - first] = sequence.start
    query_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    column = np.arange(counts.max())
    inside = column < counts[:, None]
    rows = _logit_rows(sequences, [int(query_starts[slot_of(sequence) - first]) for sequence in sequences])
    arrays = {
        "token_ids": np.concatenate([sequence.token_ids for sequence in sequences]).astype(np.int32),
        "positions": (starts[:, None] + column)[inside].astype(np.int32),
        "write_index": starts,
        "query_starts": query_starts,
        # A slot without tokens has one visible key, so that no row of a softmax is empty.
        "kv_lengths": np.maximum(starts + counts, 1),
        "padded_rows": np.where(inside, query_starts[:-1, None] + column, 0).astype(np.int32),
        "packed_rows": np.flatnonzero(inside).astype(np.int32),
        "logit_rows": np.array(rows or [0], np.int32),
    }
    return RunInputs(arrays, tuple(order), first, num_slots, len(rows))


def _logit_rows(sequences: Sequence[ScheduledSequence], starts: Sequence[int]) -> list[int]:
    rows: list[int] = []
    for sequence, start in zip(sequences, starts, strict=True):
        rows += range(start, start + len(sequence.prompt_targets))
        if sequence.sample_last:
            rows.append(start + len(sequence.token_ids) - 1)
    return rows
