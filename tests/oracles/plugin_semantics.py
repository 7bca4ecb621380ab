"""What the plugins of paged attention mean, in NumPy; whatever a kernel leaves unwritten is NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.build.targets.tensorrt.lowering.cache_layout import SPLIT_TOKENS
from tests.oracles.gpu.paged_attention import paged_attention

Array = npt.NDArray[Any]


def paged_decode(
    q: Array,
    key_cache: Array,
    value_cache: Array,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    *,
    scale: float,
    window: int,
    sm: int,
) -> tuple[Array, Array, Array]:
    """The softmax of each split of SPLIT_TOKENS by its greatest score (as a power of two), not yet divided."""
    (rows, heads, size), (_, kv_heads, per_block, _) = q.shape, key_cache.shape
    splits = -(-block_tables.shape[1] * per_block // SPLIT_TOKENS)
    partials = np.full((rows, heads, splits, size), np.nan, np.float32)
    maxima, totals = (np.full((rows, heads, splits), np.nan, np.float32) for _ in range(2))
    for row, position in enumerate(positions.tolist()):
        first = max(0, position + 1 - window) if window else 0
        for split in range(first // SPLIT_TOKENS, -(-(position + 1) // SPLIT_TOKENS)):
            tokens = np.arange(
                max(first, split * SPLIT_TOKENS), min(position + 1, (split + 1) * SPLIT_TOKENS), dtype=np.int64
            )
            at = block_tables[sequence_of_row[row]][tokens // per_block], slice(None), tokens % per_block
            keys, values = key_cache[at].astype(np.float64), value_cache[at].astype(np.float64)
            grouped = q[row].reshape(kv_heads, -1, size).astype(np.float64)
            scores = np.einsum("hgd,phd->hgp", grouped, keys).reshape(heads, -1) * scale * np.log2(np.e)
            weights = np.exp2(scores - scores.max(axis=-1, keepdims=True))
            maxima[row, :, split], totals[row, :, split] = scores.max(axis=-1), weights.sum(axis=-1)
            parts = np.einsum("hgp,phd->hgd", weights.reshape(kv_heads, -1, len(tokens)), values)
            partials[row, :, split] = parts.reshape(heads, size)
    return partials, maxima, totals


def combine_splits(
    q: Array, partials: Array, maxima: Array, totals: Array, positions: Array, *, window: int, sm: int
) -> tuple[Array]:
    """Rows of q's type; zeros for a row of negative position."""
    out = np.zeros(q.shape, np.float64)
    for row, position in enumerate(positions.tolist()):
        first = max(0, position + 1 - window) // SPLIT_TOKENS if window else 0
        there = slice(first, -(-(position + 1) // SPLIT_TOKENS))
        if position >= 0:
            weights = np.exp2(maxima[row, :, there] - maxima[row, :, there].max(axis=-1, keepdims=True))
            total = (weights * totals[row, :, there]).sum(axis=-1)
            out[row] = (weights[..., None] * partials[row, :, there]).sum(axis=1) / total[:, None]
    return (out.astype(q.dtype),)


def paged_prefill(
    q: Array,
    key_cache: Array,
    value_cache: Array,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    tile_begins: Array,
    tile_ends: Array,
    *,
    scale: float,
    window: int,
    sm: int,
) -> tuple[Array]:
    """The rows of each tile, which are one sequence's at neighbouring positions."""
    out = np.full(q.shape, np.nan, np.float64)
    keys, values = key_cache.astype(np.float64), value_cache.astype(np.float64)
    for begin, end in zip(tile_begins.tolist(), tile_ends.tolist(), strict=True):
        rows = slice(begin, end)
        assert np.all(np.diff(positions[rows]) == 1) and len(set(sequence_of_row[rows].tolist())) <= 1
        where = (positions[rows], sequence_of_row[rows], block_tables)
        flat = q[rows].reshape(end - begin, q.shape[1] * q.shape[2])
        result = paged_attention(flat, keys, values, *where, scale=scale, soft_cap=0.0, window=window)
        out[rows] = result.reshape(q[rows].shape)
    return (out.astype(q.dtype),)


MEANINGS: Mapping[str, Callable[..., tuple[Array, ...]]] = {
    "paged_decode": paged_decode,
    "combine_splits": combine_splits,
    "paged_prefill": paged_prefill,
}
