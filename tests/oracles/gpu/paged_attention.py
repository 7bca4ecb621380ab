"""What the attention kernels and `rope_cache_write` mean, in float64.

Caches are [blocks, num_kv_heads, tokens_per_block, head_size]; rows, positions, block tables as in
docs/formats/operators.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.variants import FLOAT8, INT8
from tests.oracles.gpu.weight_only import float8_numbers

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


def cache_numbers(cache: Array, scales: Array, cache_format: int) -> Doubles:
    """The numbers that a cache holds. Scales: float8 [1], int8 [blocks, num_kv_heads, tokens_per_block]."""
    if cache_format == FLOAT8:
        return float8_numbers(cache).astype(np.float64) * np.float64(scales[0])
    if cache_format == INT8:
        return cache.astype(np.float64) * scales.astype(np.float64)[..., None]
    return cache.astype(np.float64)


def paged_attention(
    q: Array,
    keys: Doubles,
    values: Doubles,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    *,
    scale: float,
    soft_cap: float,
    window: int,
    chunk: int = 0,
    sinks: Array | None = None,
    bias: Array | None = None,
    bias_origin: int = -1,
) -> Doubles:
    """[rows, num_heads * head_size]; row t sees tokens 0 .. positions[t], the last `window` when window > 0, or
    those from the last multiple of `chunk` on.

    Scores s become soft_cap * tanh(s / soft_cap) when soft_cap > 0. Then bias [num_heads, width] is added: of the
    column of the token, less the row's position, plus bias_origin, where that is not -1. sinks [num_heads] are scores
    of no value. A row of negative position is zeros.
    """
    num_kv_heads, tokens_per_block, head_size = keys.shape[1:]
    out = np.zeros(q.shape, np.float64)
    for row, position in enumerate(positions.tolist()):
        if position < 0:
            continue
        seen = np.arange(max(0, position + 1 - window) if window else 0, position + 1)
        seen = seen[seen >= position // chunk * chunk] if chunk else seen
        blocks, slots = block_tables[sequence_of_row[row]][seen // tokens_per_block], seen % tokens_per_block
        grouped = q[row].astype(np.float64).reshape(num_kv_heads, -1, head_size)
        scores = np.einsum("hgd,phd->hgp", grouped, keys[blocks, :, slots]) * scale
        if soft_cap > 0:
            scores = soft_cap * np.tanh(scores / soft_cap)
        if bias is not None:
            scores += bias[:, seen + (bias_origin - position if bias_origin >= 0 else 0)].reshape(scores.shape)
        if sinks is not None:
            of_heads = sinks.astype(np.float64).reshape(*scores.shape[:2], 1)
            scores = np.concatenate([scores, of_heads], axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = (weights / weights.sum(axis=-1, keepdims=True))[..., : len(seen)]
        out[row] = np.einsum("hgp,phd->hgd", weights, values[blocks, :, slots]).reshape(-1)
    return out


def rotated_heads(
    heads: Array, norm: Array | None, cos: Array, sin: Array, *, epsilon: float, norm_last: bool = False
) -> Doubles:
    """heads [rows, heads, head_size], normalized when `norm` [head_size] is given, before or after they are rotated.

    cos, sin [rows, rotary_size / 2]; element i of the first rotary_size pairs with i + rotary_size / 2.
    """
    x = heads.astype(np.float64)
    factor = 1 if norm is None else norm.astype(np.float64) / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon)
    if not norm_last:
        x = x * factor
    half = cos.shape[1]
    low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cosine, sine = cos[:, None].astype(np.float64), sin[:, None].astype(np.float64)
    turned = np.concatenate([low * cosine - high * sine, high * cosine + low * sine, rest], axis=-1)
    return np.asarray(turned * factor if norm_last else turned)
