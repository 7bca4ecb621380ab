"""The integers of a step in one array, which goes to the GPU in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch

Ints: TypeAlias = npt.NDArray[np.int32]
Floats: TypeAlias = npt.NDArray[np.float32]
# Kernels rely on addresses that are multiples of 16 bytes.
_ALIGNED = 4


@dataclass(frozen=True)
class StepCounts:
    """Rows of the step by their kind, and the greatest position of a generated one (-1: there is none)."""

    tokens: int
    generated: int
    logit_rows: int
    prompt_tiles: int
    greatest_position: int


class StepArrays:
    """int32 arrays at fixed places of `data`: token_ids, positions, sequence_of_row [max_num_tokens], logit_rows
    [max_logit_rows], tile_begins, tile_ends [max_num_tokens], block_tables [max_batch_size, block_table_stride].

    Rows of generated tokens come first, then those of prompts, sequence by sequence. A token is generated if its
    position is not one of the prompt, also where a preempted sequence is computed again: that decides which kernel its
    attention gets, and the two differ in the last bit.
    """

    def __init__(self, manifest: EngineManifest, tile_tokens: int) -> None:
        limits = manifest.limits
        self.block_table_stride = -(-limits.max_seq_len // manifest.kv_cache.tokens_per_block)
        self._tile_tokens = tile_tokens
        sizes = dict.fromkeys(("token_ids", "positions", "sequence_of_row"), limits.max_num_tokens)
        sizes |= {"logit_rows": limits.max_logit_rows}
        sizes |= dict.fromkeys(("tile_begins", "tile_ends"), limits.max_num_tokens)
        sizes |= {"block_tables": limits.max_batch_size * self.block_table_stride}
        self.offsets: dict[str, int] = {}
        total = 0
        for name, size in sizes.items():
            self.offsets[name] = total * np.dtype(np.int32).itemsize
            total += -(-size // _ALIGNED) * _ALIGNED
        self.data: Ints = np.zeros(total, np.int32)
        self._arrays = {
            name: self.data[self.offsets[name] // 4 : self.offsets[name] // 4 + size] for name, size in sizes.items()
        }

    def fill(self, batch: StepBatch) -> StepCounts:
        """Write the arrays of a checked batch."""
        chunks = [_Chunk.of(index, sequence) for index, sequence in enumerate(batch.unmasked)]
        generated = sum(chunk.count - chunk.prompt_count for chunk in chunks)
        next_generated, next_prompt, tiles = 0, generated, 0
        wanted: list[int] = []
        tables = self._arrays["block_tables"].reshape(-1, self.block_table_stride)
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
            self._arrays["sequence_of_row"][rows] = chunk.index
            tables[chunk.index, : len(sequence.block_table)] = sequence.block_table
            wanted += rows[: len(sequence.prompt_targets)].tolist()
            wanted += rows[-1:].tolist() if sequence.sample_last else []
        self._arrays["logit_rows"][: len(wanted)] = wanted
        greatest = int(self._arrays["positions"][:generated].max(initial=-1))
        return StepCounts(next_prompt, generated, len(wanted), tiles, greatest)

    def _tile(self, begin: int, end: int, tiles: int) -> int:
        """Cut the rows of a prompt into tiles, behind the `tiles` that there are."""
        firsts = np.arange(begin, end, self._tile_tokens)
        self._arrays["tile_begins"][tiles : tiles + len(firsts)] = firsts
        self._arrays["tile_ends"][tiles : tiles + len(firsts)] = np.minimum(firsts + self._tile_tokens, end)
        return tiles + len(firsts)


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


def logits_by_sequence(
    sequences: Sequence[ScheduledSequence], logits: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float32]]:
    """The logit rows of each sequence, in order."""
    ends = np.cumsum([sequence.num_logit_rows for sequence in sequences])
    return np.split(logits, ends[:-1])
