"""Which rows of a step each program of `paged_prefill` takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]


def prefill_tiles(chunk_lengths: Sequence[int], tokens_per_tile: int) -> tuple[Rows, Rows]:
    """First row and the row behind the last, int32 [tiles] each, for chunks that lie one behind the other from row 0.

    `tokens_per_tile` is block_m / (num_heads / num_kv_heads), rounded down. An empty chunk has no tile.
    """
    begins: list[int] = []
    ends: list[int] = []
    start = 0
    for length in chunk_lengths:
        end = start + length
        firsts = range(start, end, tokens_per_tile)
        begins.extend(firsts)
        ends.extend(min(first + tokens_per_tile, end) for first in firsts)
        start = end
    return np.array(begins, np.int32), np.array(ends, np.int32)
