"""Runs over linear caches: a KV block is as long as a sequence may be, and a sequence's one block is its slot.

A run covers a range of neighbouring slots; those without a sequence in it get no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inflight.engine_format.manifest import Limits
from inflight.runtime.executors.tensorrt.inputs import RunInputs, int32, logit_rows
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch


class SlotRuns:
    """A RunPlanner: single tokens in one run, then runs of neighbouring prompt pieces."""

    def __init__(self, limits: Limits) -> None:
        self._max_rows = limits.max_num_tokens
        batch, tokens = limits.max_batch_size, limits.max_num_tokens
        self.sizes = {
            **dict.fromkeys(("token_ids", "positions", "packed_rows"), tokens),
            **dict.fromkeys(("write_index", "kv_lengths"), batch),
            "query_starts": batch + 1,
            "padded_rows": max(tokens, batch),
            "logit_rows": limits.max_logit_rows,
        }

    def __call__(self, batch: StepBatch) -> list[RunInputs]:
        return [slot_run(batch, chosen) for chosen in split_step(batch, self._max_rows)]


def slot_of(sequence: ScheduledSequence) -> int:
    return sequence.block_table[0]


def slot_run(batch: StepBatch, chosen: Sequence[int]) -> RunInputs:
    """A run of the `chosen` sequences of a step; no two have the same slot."""
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
    rows = logit_rows(sequences, [int(query_starts[slot_of(sequence) - first]) for sequence in sequences])
    arrays = {
        "token_ids": np.concatenate([sequence.token_ids for sequence in sequences]).astype(np.int32),
        "positions": (starts[:, None] + column)[inside].astype(np.int32),
        "write_index": starts,
        "query_starts": query_starts,
        # A slot without tokens has one visible key, so that no row of a softmax is empty.
        "kv_lengths": np.maximum(starts + counts, 1),
        "padded_rows": np.where(inside, query_starts[:-1, None] + column, 0).astype(np.int32),
        "packed_rows": np.flatnonzero(inside).astype(np.int32),
        "logit_rows": int32(rows or [0]),
    }
    return RunInputs(arrays, tuple(order), first, num_slots, len(rows), decodes=int(counts.max()) == 1)


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
