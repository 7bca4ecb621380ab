"""What a paged cache holds of heads, and what it means; and NumPy references of the fused operators of latent attention
(see fused_operators.py)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.oracles.fused_floats import float32, rms_norm
from tests.oracles.fused_quantized import quantize_rows

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def places(positions: Array, block_tables: Array, tokens_per_block: int) -> tuple[Array, Array]:
    """Block and slot within the block of each position; `block_tables` has one row, or one for each position."""
    rows = np.zeros(1, dtype=np.int64) if len(block_tables) == 1 else np.arange(len(positions))
    return block_tables[rows, positions // tokens_per_block], positions % tokens_per_block


def turned(heads: Array) -> Floats:
    """heads [..., D] times Hadamard matrices over the roots of their sizes, powers of two, the greatest that fit first.
    Turned twice they are as they were.
    """
    start, pieces = 0, []
    while start < heads.shape[-1]:
        size = 1 << (heads.shape[-1] - start).bit_length() - 1
        matrix = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]) / np.sqrt(size)
        pieces.append(heads[..., start : start + size] @ matrix)
        start += size
    result: Floats = np.concatenate(pieces, axis=-1).astype(np.float32)
    return result


def cached(heads: Array, dtype: np.dtype[Any], factor: float) -> Array:
    """heads float32 [T, Hkv, D] as the cache holds them."""
    if dtype == ml_dtypes.float8_e4m3fn:
        return np.clip(heads / np.float32(factor), -448, 448)
    if dtype == ml_dtypes.int4:
        return _int4(turned(heads))
    if dtype != np.int8:
        return heads
    levels, scale = quantize_rows(heads, type="int8")
    return np.concatenate([levels, scale[..., None].view(np.int8)], axis=-1)


def _int4(heads: Floats) -> Array:
    """Levels -8 .. 7, -8 that of the greatest magnitude, then the scale in eight halves of bytes, lower ones first."""
    low, high = heads.min(axis=-1), heads.max(axis=-1)
    scale = np.where(-low >= high, -low, -high) / np.float32(8)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    levels = np.minimum(np.rint(heads * inverse[..., None]), 7).astype(np.int8)
    data = scale[..., None].view(np.uint8)
    halves = np.stack([data & 15, data >> 4], axis=-1).reshape(*scale.shape, 8)
    return np.concatenate([levels, (halves.astype(np.int8) ^ 8) - 8], axis=-1)


def from_cache(tokens: Array, factor: float) -> Floats:
    if tokens.dtype == ml_dtypes.float8_e4m3fn:
        return float32(tokens) * np.float32(factor)
    if tokens.dtype == ml_dtypes.int4:
        levels, halves = np.split(tokens.astype(np.int8), [-8], axis=-1)
        data = (halves[..., ::2] & 15 | halves[..., 1::2] << 4).view(np.uint8)
        return turned(float32(levels) * np.ascontiguousarray(data).view(np.float32))
    if tokens.dtype != np.int8:
        return float32(tokens)
    levels, scale = np.split(tokens, [-4], axis=-1)
    return float32(levels) * np.ascontiguousarray(scale).view(np.float32)


def rotate(heads: Array, size: int, cos: Array, sin: Array) -> Floats:
    """heads [T, heads, D], cos and sin [T, size/2]: element i pairs with i + size/2 ("neox" style) for i < size/2."""
    first, second, rest = np.split(heads, [size // 2, size], axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def head_linear(x: Array, weight: Array, *, row_size: int) -> Floats:
    """The first elements of each head's row times that head's matrix (out, in)."""
    heads, _, inputs = weight.shape
    rows = float32(x).reshape(len(x), heads, row_size)[..., :inputs]
    result: Floats = np.einsum("thk,hnk->thn", rows, float32(weight)).reshape(len(x), -1)
    return result


def latent_cache_write(
    q: Array,
    met: Array,
    kv: Array,
    norm: Array,
    cos: Array,
    sin: Array,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    cache: Array,
    *,
    num_heads: int,
    rank: int,
    rotary_size: int,
    epsilon: float,
    key_factor: float = 1.0,
) -> tuple[Floats, Array]:
    """Writes rows into `cache` [blocks, 1, tokens_per_block, rank + rotary_size] (of integers: 4 more), rounding them
    to its type, and returns it after the queries.
    """
    angles = (cos[positions], sin[positions])
    turning = q.reshape(len(q), num_heads, -1)[..., -rotary_size:]
    parts = [met.reshape(len(q), num_heads, rank), rotate(turning, rotary_size, *angles)]
    queries: Floats = np.concatenate(parts, axis=-1).reshape(len(q), -1)
    latent, key = np.split(kv[:, None], [rank], axis=-1)
    row = np.concatenate([rms_norm(latent, norm, epsilon=epsilon), rotate(key, rotary_size, *angles)], axis=-1)
    blocks, slots = places(positions, block_tables[sequence_of_row], cache.shape[2])
    cache[blocks, :, slots] = cached(row, cache.dtype, key_factor)
    return queries, cache


def paged_latent_attention(
    q: Array,
    cache: Array,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    *,
    num_heads: int,
    rank: int,
    rotary_size: int,
    scale: float,
    key_factor: float = 1.0,
) -> Floats:
    """Row t sees positions 0 .. positions[t] of its sequence: all of a cached row for the score, its first `rank`
    elements for the weighted sum.
    """
    result = np.empty((len(q), num_heads, rank), np.float32)
    for row, (position, sequence) in enumerate(zip(positions.tolist(), sequence_of_row.tolist(), strict=True)):
        block, slot = places(np.arange(position + 1), block_tables[sequence][None], cache.shape[2])
        rows = from_cache(cache[block, 0, slot], key_factor)
        scores = q[row].reshape(num_heads, rank + rotary_size) @ rows.T * np.float32(scale)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result[row] = weights / weights.sum(axis=-1, keepdims=True) @ rows[:, :rank]
    return result.reshape(len(q), -1)
