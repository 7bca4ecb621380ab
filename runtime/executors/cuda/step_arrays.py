"""The integers of a step in one array, which goes to the GPU in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest, Limits
from inflight.runtime.executors.cuda.layout import Bytes, Field, Layout
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch

Ints: TypeAlias = npt.NDArray[np.int32]
# Block tables: of rows that nobody asked for, and of the first sequence.
_SPARE, _FIRST = 0, 1


@dataclass(frozen=True, eq=False)
class StepCounts:
    """Rows of the step by their kind.

    items_before int32 [generated + 1]: the items of all generated rows in front of each, and of all. An item is a split
    of a row's context, of as many tokens as the engine's launches say. `wanted`: the logit rows that somebody asked
    for; the others are there so that launches repeat. `repeats`: nothing but this record's numbers decides the launches
    of the step.
    """

    tokens: int
    generated: int
    logit_rows: int
    prompt_tiles: int
    items_before: Ints
    wanted: int
    repeats: bool = False


def step_layout(manifest: EngineManifest) -> Layout:
    """int32 arrays: token_ids, positions, sequence_of_row, follows, first_items, tile_begins, tile_ends
    [max_num_tokens], logit_rows [max_logit_rows]; and last, of which a step needs the beginning alone, block_tables
    [max_batch_size + 1, blocks of the longest sequence]."""
    limits = manifest.limits
    rows = ("token_ids", "positions", "sequence_of_row", "follows", "first_items", "tile_begins", "tile_ends")
    fields = {name: Field(np.int32, (limits.max_num_tokens,)) for name in rows}
    fields["logit_rows"] = Field(np.int32, (limits.max_logit_rows,))
    table = -(-limits.max_seq_len // manifest.kv_cache.tokens_per_block)
    fields["block_tables"] = Field(np.int32, (limits.max_batch_size + 1, table), by_row=False)
    return Layout(fields)


class StepArrays:
    """The arrays of `layout` in `memory`.

    Rows of generated tokens come first, then those of prompts, sequence by sequence. A token is generated if its
    position is not one of the prompt, also where a preempted sequence is computed again: that decides which kernel its
    attention gets, and the two differ in the last bit. `follows` is -1, or the logit row of the step before whose token
    the row takes.

    Steps that generate a token of each sequence have rows for one of few numbers of sequences: those that nobody asked
    for compute token 0 at the first position of a block that belongs to nobody, `spare_block`. Block table 0 is theirs,
    sequence i has table i + 1. `first_items` has what lies in front of each generated row (StepCounts). `filled` is
    what the last step needs of the memory.
    """

    def __init__(
        self, layout: Layout, memory: Bytes, limits: Limits, tile_tokens: int, split_tokens: int, spare_block: int
    ) -> None:
        self.filled = memory
        self._memory = memory
        self._layout = layout
        self._tile_tokens = tile_tokens
        self._split_tokens = split_tokens
        self._most_rows = min(limits.max_num_tokens, limits.max_logit_rows)
        self._arrays: dict[str, Ints] = layout.views(memory)
        self._arrays["block_tables"][_SPARE, :1] = spare_block

    def fill(self, batch: StepBatch, previous: Sequence[int] = ()) -> StepCounts:
        """Write the arrays of a checked batch. previous: for each sequence of the step before, the logit row that chose
        its token."""
        sequences = batch.unmasked
        tables = self._arrays["block_tables"]
        for table, sequence in enumerate(sequences, _FIRST):
            tables[table, : len(sequence.block_table)] = sequence.block_table
        used = self._layout.offsets["block_tables"] + (_FIRST + len(sequences)) * tables.strides[0]
        self.filled = self._memory[:used]
        if all(_generates_one(sequence) for sequence in sequences):
            return self._fill_generated(sequences, previous)
        return self._fill_mixed(sequences, previous)

    def _fill_generated(self, sequences: Sequence[ScheduledSequence], previous: Sequence[int]) -> StepCounts:
        count = len(sequences)
        rows = padded_rows(count, self._most_rows)
        self._write("token_ids", [sequence.token_ids[0] for sequence in sequences], rows, 0)
        self._write("positions", [sequence.start for sequence in sequences], rows, 0)
        self._write("sequence_of_row", range(_FIRST, _FIRST + count), rows, _SPARE)
        self._write("follows", [_row_before(sequence, previous) for sequence in sequences], rows, -1)
        self._write("logit_rows", range(rows), rows, 0)
        return StepCounts(rows, rows, rows, 0, self._list_items(rows), count, repeats=True)

    def _write(self, name: str, values: Sequence[int], rows: int, padding: int) -> None:
        array = self._arrays[name]
        array[: len(values)] = values
        array[len(values) : rows] = padding

    def _fill_mixed(self, sequences: Sequence[ScheduledSequence], previous: Sequence[int]) -> StepCounts:
        chunks = [_Chunk.of(index, sequence) for index, sequence in enumerate(sequences)]
        generated = sum(chunk.count - chunk.prompt_count for chunk in chunks)
        next_generated, next_prompt, tiles = 0, generated, 0
        wanted: list[int] = []
        for chunk in chunks:
            rows = np.empty(chunk.count, np.int32)
            rows[: chunk.prompt_count] = np.arange(next_prompt, next_prompt + chunk.prompt_count)
            rows[chunk.prompt_count :] = np.arange(next_generated, next_generated + chunk.count - chunk.prompt_count)
            tiles = self._tile(next_prompt, next_prompt + chunk.prompt_count, tiles)
            next_prompt += chunk.prompt_count
            next_generated += chunk.count - chunk.prompt_count
            sequence = chunk.sequence
            self._arrays["token_ids"][rows] = sequence.token_ids
            self._arrays["positions"][rows] = np.arange(sequence.start, sequence.start + chunk.count)
            self._arrays["sequence_of_row"][rows] = _FIRST + chunk.index
            self._arrays["follows"][rows] = _row_before(sequence, previous)
            wanted += rows[: len(sequence.prompt_targets)].tolist()
            wanted += rows[-1:].tolist() if sequence.sample_last else []
        self._arrays["logit_rows"][: len(wanted)] = wanted
        return StepCounts(next_prompt, generated, len(wanted), tiles, self._list_items(generated), len(wanted))

    def _list_items(self, generated: int) -> Ints:
        """Write where the items of each generated row begin. See StepCounts."""
        before = np.zeros(generated + 1, np.int32)
        np.cumsum(self._arrays["positions"][:generated] // self._split_tokens + 1, out=before[1:])
        self._arrays["first_items"][:generated] = before[:-1]
        return before

    def _tile(self, begin: int, end: int, tiles: int) -> int:
        """Cut the rows of a prompt into tiles, behind the `tiles` that there are."""
        firsts = np.arange(begin, end, self._tile_tokens)
        self._arrays["tile_begins"][tiles : tiles + len(firsts)] = firsts
        self._arrays["tile_ends"][tiles : tiles + len(firsts)] = np.minimum(firsts + self._tile_tokens, end)
        return tiles + len(firsts)


def padded_rows(count: int, most: int) -> int:
    """The number of rows of a step that generates `count` tokens, at most `most`: steps of few numbers of rows repeat,
    and the more rows there are, the less some more cost."""
    step = 1 << max(0, (count - 1).bit_length() - 2)
    return min(-(-count // step) * step, most)


def _generates_one(sequence: ScheduledSequence) -> bool:
    """Whether it computes a generated token, and chooses the next."""
    alone = len(sequence.token_ids) == 1 and sequence.sample_last and not sequence.prompt_targets
    return alone and sequence.start >= sequence.prompt_length


def _row_before(sequence: ScheduledSequence, previous: Sequence[int]) -> int:
    return -1 if sequence.follows < 0 else previous[sequence.follows]


@dataclass(frozen=True)
class _Chunk:
    """The rows of one sequence: the first `prompt_count` are of its prompt."""

    index: int
    sequence: ScheduledSequence
    count: int
    prompt_count: int

    @classmethod
    def of(cls, index: int, sequence: ScheduledSequence) -> _Chunk:
        count = len(sequence.token_ids)
        return cls(index, sequence, count, min(max(sequence.prompt_length - sequence.start, 0), count))


def logits_by_sequence(sequences: Sequence[ScheduledSequence], logits: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The logit rows of each sequence, in order."""
    ends = np.cumsum([sequence.num_logit_rows for sequence in sequences])
    return np.split(logits, ends[:-1])
