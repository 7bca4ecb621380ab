"""Runs over a paged cache: one run a step, whose rows lie in the order of the blocks that they are written to.

The cache update writes, for every block of the pool, so many neighbouring rows from a place in the block on; sorted by
block, the rows of a step are such neighbours. Attention does not care for the order: it finds a row's sequence, its
position and its block table by the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.tensorrt.inputs import Ints, RunInputs, int32, logit_rows
from inflight.runtime.kv_cache.budget import blocks_per_sequence
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch

Bools: TypeAlias = npt.NDArray[np.bool_]

# A row that is not there: its attention is zeros, and nothing reads it.
_NO_POSITION = -1


class BlockRuns:
    """A RunPlanner: all sequences of a step at once. `prompt_tile`: see DevicePlan."""

    def __init__(self, manifest: EngineManifest, num_blocks: int, prompt_tile: int) -> None:
        limits = manifest.limits
        self._num_blocks = num_blocks
        self._tokens_per_block = manifest.kv_cache.tokens_per_block
        self._prompt_tile = prompt_tile
        self._max_width = blocks_per_sequence(manifest)
        batch, tokens = limits.max_batch_size, limits.max_num_tokens
        rows = ("token_ids", "positions", "sequence_of_row", "attention_rows", "tile_begins", "tile_ends")
        self.sizes = {
            **dict.fromkeys(rows, tokens),
            **dict.fromkeys(("decode_rows", "decode_positions", "decode_sequences"), batch),
            "write_index": num_blocks,
            "query_starts": num_blocks + 1,
            "block_tables": batch * self._max_width,
            "logit_rows": limits.max_logit_rows,
        }

    def __call__(self, batch: StepBatch) -> list[RunInputs]:
        sequences = batch.sequences
        counts = np.array([len(sequence.token_ids) for sequence in sequences])
        sequence_of_row = np.repeat(np.arange(len(sequences)), counts)
        positions = np.concatenate([sequence.start + np.arange(len(sequence.token_ids)) for sequence in sequences])
        token_ids = np.concatenate([sequence.token_ids for sequence in sequences])
        tables = self._block_tables(sequences)
        blocks = tables[sequence_of_row, positions // self._tokens_per_block]
        # Rows of a block are one sequence's, in the order of their positions, which a stable sort keeps.
        by_block = np.argsort(blocks, kind="stable")
        arrays = {
            "token_ids": token_ids[by_block].astype(np.int32),
            "positions": positions[by_block].astype(np.int32),
            "sequence_of_row": sequence_of_row[by_block].astype(np.int32),
            "block_tables": tables,
            "logit_rows": _logit_rows(sequences, by_block),
            **self._cache_writes(blocks[by_block], positions[by_block]),
        }
        single = counts[sequence_of_row[by_block]] == 1
        arrays |= _attention_inputs(arrays, single, self._prompt_tile)
        num_logit_rows = sum(sequence.num_logit_rows for sequence in sequences)
        order = tuple(range(len(sequences)))
        return [RunInputs(arrays, order, 0, self._num_blocks, num_logit_rows, decodes=bool(single.all()))]

    def _cache_writes(self, blocks: Ints, positions: Ints) -> dict[str, Ints]:
        """How many rows each block of the pool gets, cumulative, and where in the block they begin."""
        query_starts = np.searchsorted(blocks, np.arange(self._num_blocks + 1)).astype(np.int32)
        written = np.flatnonzero(np.diff(query_starts))
        write_index = np.zeros(self._num_blocks, np.int32)
        write_index[written] = positions[query_starts[written]] % self._tokens_per_block
        return {"query_starts": query_starts, "write_index": write_index}

    def _block_tables(self, sequences: Sequence[ScheduledSequence]) -> Ints:
        """int32 [sequences, width]; the width is a power of two or the greatest, so that decodes have few sizes."""
        longest = max(len(sequence.block_table) for sequence in sequences)
        width = min(1 << (longest - 1).bit_length(), self._max_width)
        tables = np.zeros((len(sequences), width), np.int32)
        for row, sequence in zip(tables, sequences, strict=True):
            row[: len(sequence.block_table)] = sequence.block_table
        return tables


def _logit_rows(sequences: Sequence[ScheduledSequence], by_block: npt.NDArray[np.int64]) -> Ints:
    """Where the wanted rows lie once rows are sorted; one row when none is wanted."""
    place = np.empty_like(by_block)
    place[by_block] = np.arange(len(by_block))
    starts = np.concatenate([[0], np.cumsum([len(sequence.token_ids) for sequence in sequences])])
    return place[logit_rows(sequences, starts[:-1].tolist()) or [0]].astype(np.int32)


def _attention_inputs(arrays: dict[str, Ints], single: Bools, prompt_tile: int) -> dict[str, Ints]:
    """Which rows are decodes, the tiles of the others, and where each row finds its result: decodes first, then all.

    There is always a decode and always a tile, because an engine's sizes begin with 1: a row that is not there, and a
    tile without rows.
    """
    decode_rows = np.flatnonzero(single)
    positions, sequences = arrays["positions"][decode_rows], arrays["sequence_of_row"][decode_rows]
    if not decode_rows.size:
        decode_rows, positions, sequences = int32([0]), int32([_NO_POSITION]), int32([0])
    attention_rows = len(decode_rows) + np.arange(len(single))
    attention_rows[single] = np.arange(int(single.sum()))
    begins, ends = _prompt_tiles(arrays["query_starts"], single, prompt_tile)
    return {
        "decode_rows": decode_rows.astype(np.int32),
        "decode_positions": positions,
        "decode_sequences": sequences,
        "tile_begins": int32(begins or [0]),
        "tile_ends": int32(ends or [0]),
        "attention_rows": attention_rows.astype(np.int32),
    }


def _prompt_tiles(query_starts: Ints, single: Bools, prompt_tile: int) -> tuple[list[int], list[int]]:
    """First row and the row behind the last of each tile: neighbours in one block, at most `prompt_tile` of them."""
    begins: list[int] = []
    ends: list[int] = []
    for block in np.flatnonzero(np.diff(query_starts)).tolist():
        first, behind = query_starts[block : block + 2].tolist()
        if not single[first]:
            firsts = range(first, behind, prompt_tile)
            begins += firsts
            ends += [min(begin + prompt_tile, behind) for begin in firsts]
    return begins, ends
