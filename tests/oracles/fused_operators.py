"""A NumPy reference of each fused operator of docs/formats/operators.md: inputs by position, attributes by keyword.

Weights may be of any type; arithmetic is float32. Results that the operator rounds to `act` are returned unrounded: the
type belongs to the graph's value, and whoever runs the graph casts to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.oracles.fused_experts import experts, gate_whole_rows, quantized_experts
from tests.oracles.fused_floats import (
    activated,
    add_rows,
    embedding_lookup,
    float32,
    gate,
    gated_linear,
    layer_norm,
    linear,
    rms_norm,
    scale,
    soft_cap,
    xielu,
)
from tests.oracles.fused_quantized import (
    quantize_rows,
    quantized_gated_linear,
    quantized_linear,
    rms_norm_quantize,
)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def rope_cache_write(
    qkv: Array,
    q_norm: Array | None,
    k_norm: Array | None,
    cos: Array | None,
    sin: Array | None,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    key_cache: Array,
    value_cache: Array,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    rotary_size: int,
    epsilon: float,
    norm_last: int = 0,
    key_factor: float = 1.0,
    value_factor: float = 1.0,
) -> tuple[Floats, Array, Array]:
    """Writes into `key_cache` and `value_cache`, rounding to their type, and returns them after the rotated q.

    A cache of integers is [blocks, Hkv, tokens_per_block, D + 4], of int4 D + 8: each head of a token is quantized, and
    its four last bytes are its float32 scale. For int4 it is turned first (`turned`).
    """
    heads = qkv.reshape(len(qkv), -1, head_size)
    q, k, v = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
    turned_by = None if cos is None or sin is None else (cos[positions], sin[positions])
    q, k = (
        _normed_and_turned(x, norm, turned_by, rotary_size, epsilon, norm_last)
        for x, norm in ((q, q_norm), (k, k_norm))
    )
    blocks, slots = _places(positions, block_tables[sequence_of_row], key_cache.shape[2])
    key_cache[blocks, :, slots] = _cached(k, key_cache.dtype, key_factor)
    value_cache[blocks, :, slots] = _cached(v, value_cache.dtype, value_factor)
    return q.reshape(len(qkv), -1), key_cache, value_cache


def _normed_and_turned(
    heads: Array,
    norm: Array | None,
    turned_by: tuple[Array, Array] | None,
    rotary_size: int,
    epsilon: float,
    norm_last: int,
) -> Array:
    if norm is not None and not norm_last:
        heads = rms_norm(heads, norm, epsilon=epsilon)
    if turned_by is not None:
        heads = _rotate(heads, rotary_size, *turned_by)
    return rms_norm(heads, norm, epsilon=epsilon) if norm is not None and norm_last else heads


def qkv_norm(qkv: Array, q_norm: Array, k_norm: Array, *, epsilon: float) -> Floats:
    q, k, v = np.split(qkv, [len(q_norm), len(q_norm) + len(k_norm)], axis=1)
    normed = (rms_norm(q, q_norm, epsilon=epsilon), rms_norm(k, k_norm, epsilon=epsilon), v)
    result: Floats = np.concatenate(normed, axis=1)
    return result


def clip_rows(x: Array, *, low: float, high: float) -> Floats:
    result: Floats = np.clip(x, np.float32(low), np.float32(high))
    return result


def round_rows(x: Array) -> Array:
    return x


def paged_attention(
    q: Array,
    key_cache: Array,
    value_cache: Array,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    sinks: Array | None = None,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    scale: float,
    window: int,
    softcap: float,
    causal: int = 1,
    key_factor: float = 1.0,
    value_factor: float = 1.0,
) -> Floats:
    """Row t sees positions 0 .. positions[t] of its sequence, the last `window` of them when window > 0; with causal 0
    all up to the last of its sequence.

    Scores become softcap * tanh(score / softcap) when softcap > 0. `sinks` [num_heads] are one score more of each row,
    without a value.
    """
    rows = np.empty((len(q), num_kv_heads, num_heads // num_kv_heads, head_size), dtype=np.float32)
    for row, (position, sequence) in enumerate(zip(positions.tolist(), sequence_of_row.tolist(), strict=True)):
        last = position if causal else positions[sequence_of_row == sequence].max()
        seen = np.arange(max(0, position + 1 - window) if window else 0, last + 1)
        places = _places(seen, block_tables[sequence][None], key_cache.shape[2])
        caches = (key_cache, key_factor), (value_cache, value_factor)
        keys, values = (_from_cache(cache[places[0], :, places[1]], factor) for cache, factor in caches)
        grouped = q[row].reshape(num_kv_heads, -1, head_size)
        scores = np.einsum("hgd,phd->hgp", grouped, keys) * np.float32(scale)
        if softcap:
            scores = soft_cap(scores, cap=softcap)
        if sinks is not None:
            scores = np.concatenate([scores, float32(sinks).reshape(num_kv_heads, -1, 1)], axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = (weights / weights.sum(axis=-1, keepdims=True))[..., : len(seen)]
        rows[row] = np.einsum("hgp,phd->hgd", weights, values)
    return rows.reshape(len(q), -1)


def gather_rows(x: Array, rows: Array) -> Array:
    return x[rows]


def _places(positions: Array, block_tables: Array, tokens_per_block: int) -> tuple[Array, Array]:
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


def _cached(heads: Array, dtype: np.dtype[Any], factor: float) -> Array:
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


def _from_cache(tokens: Array, factor: float) -> Floats:
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


def _rotate(heads: Array, size: int, cos: Array, sin: Array) -> Floats:
    """heads [T, heads, D], cos and sin [T, size/2]: element i pairs with i + size/2 ("neox" style) for i < size/2."""
    first, second, rest = np.split(heads, [size // 2, size], axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


REFERENCES: Mapping[str, Callable[..., Array | tuple[Array, ...]]] = {
    "EmbeddingLookup": embedding_lookup,
    "RMSNorm": rms_norm,
    "LayerNorm": layer_norm,
    "QkvNorm": qkv_norm,
    "ClipRows": clip_rows,
    "RoundRows": round_rows,
    "Linear": linear,
    "GatedLinear": gated_linear,
    "Activation": activated,
    "Xielu": xielu,
    "Scale": scale,
    "SoftCap": soft_cap,
    "AddRows": add_rows,
    "RopeCacheWrite": rope_cache_write,
    "PagedAttention": paged_attention,
    "GatherRows": gather_rows,
    "QuantizeRows": quantize_rows,
    "RMSNormQuantize": rms_norm_quantize,
    "QuantizedLinear": quantized_linear,
    "QuantizedGatedLinear": quantized_gated_linear,
    "Gate": gate,
    "Experts": experts,
    "QuantizedExperts": quantized_experts,
    "GateWholeRows": gate_whole_rows,
}
