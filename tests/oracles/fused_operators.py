"""A NumPy reference of each fused operator of docs/formats/operators.md: inputs by position, attributes by keyword.

Weights may be of any type; arithmetic is float32. Results that the operator rounds to `act` are returned unrounded: the
type belongs to the graph's value, and whoever runs the graph casts to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.oracles.fused_attention import (
    cached,
    from_cache,
    head_linear,
    latent_cache_write,
    paged_latent_attention,
    places,
    rotate,
)
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
    q_factors: Array | None = None,
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
    its four last bytes are its float32 scale. For int4 it is turned first (`turned`). `q_factors` [positions]: what the
    queries at a position are multiplied by.
    """
    heads = qkv.reshape(len(qkv), -1, head_size)
    q, k, v = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
    turned_by = None if cos is None or sin is None else (cos[positions], sin[positions])
    q, k = (
        _normed_and_turned(x, norm, turned_by, rotary_size, epsilon, norm_last)
        for x, norm in ((q, q_norm), (k, k_norm))
    )
    if q_factors is not None:
        q = q * q_factors[positions][:, None, None]
    blocks, slots = places(positions, block_tables[sequence_of_row], key_cache.shape[2])
    key_cache[blocks, :, slots] = cached(k, key_cache.dtype, key_factor)
    value_cache[blocks, :, slots] = cached(v, value_cache.dtype, value_factor)
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
        heads = rotate(heads, rotary_size, *turned_by)
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
    bias: Array | None = None,
    distances: Array | None = None,
    columns: Array | None = None,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    scale: float,
    window: int,
    softcap: float,
    causal: int = 1,
    chunk: int = 0,
    bias_origin: int = -1,
    distance_width: int = 0,
    key_factor: float = 1.0,
    value_factor: float = 1.0,
) -> Floats:
    """Row t sees positions 0 .. positions[t] of its sequence, the last `window` of them when window > 0, or those of
    its own chunk of `chunk`; with causal 0 all up to the last of its sequence, or as many behind it as before it.

    Scores become softcap * tanh(score / softcap) when softcap > 0. `sinks` [num_heads] are one score more of each row,
    without a value. `bias` [num_heads, width] is added to scores: the column of a key is its position, or with
    bias_origin >= 0 that less positions[t], plus the origin. `distances` [T, 2 * num_heads * distance_width and more]
    of the rows of a whole sequence are added to q k' before the scale: of the query, and behind those of all heads of
    the key, the number in the column that `columns` has for the key's position less positions[t], plus bias_origin.
    """
    rows = np.empty((len(q), num_kv_heads, num_heads // num_kv_heads, head_size), dtype=np.float32)
    for row, (position, sequence) in enumerate(zip(positions.tolist(), sequence_of_row.tolist(), strict=True)):
        last = position if causal else positions[sequence_of_row == sequence].max()
        last = min(last, position + window - 1) if window else last
        first = max(0, position + 1 - window) if window else position // chunk * chunk if chunk else 0
        seen = np.arange(first, last + 1)
        found = places(seen, block_tables[sequence][None], key_cache.shape[2])
        caches = (key_cache, key_factor), (value_cache, value_factor)
        keys, values = (from_cache(cache[found[0], :, found[1]], factor) for cache, factor in caches)
        grouped = q[row].reshape(num_kv_heads, -1, head_size)
        scores = np.einsum("hgd,phd->hgp", grouped, keys)
        if distances is not None and columns is not None:
            numbers = distances[:, : 2 * num_heads * distance_width].reshape(len(q), 2, num_heads, distance_width)
            picked, of_keys = columns[seen - position + bias_origin], numbers[sequence_of_row == sequence, 1]
            added = numbers[row, 0][:, picked] + of_keys[seen - positions[sequence_of_row == sequence][0], :, picked].T
            scores = scores + added.reshape(scores.shape)
        scores = scores * np.float32(scale)
        if softcap:
            scores = soft_cap(scores, cap=softcap)
        if bias is not None:
            columns = seen if bias_origin < 0 else seen - position + bias_origin
            scores = scores + bias[:, columns].reshape(scores.shape)
        if sinks is not None:
            scores = np.concatenate([scores, float32(sinks).reshape(num_kv_heads, -1, 1)], axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = (weights / weights.sum(axis=-1, keepdims=True))[..., : len(seen)]
        rows[row] = np.einsum("hgp,phd->hgd", weights, values)
    return rows.reshape(len(q), -1)


def gather_rows(x: Array, rows: Array) -> Array:
    return x[rows]


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
    "HeadLinear": head_linear,
    "LatentCacheWrite": latent_cache_write,
    "PagedLatentAttention": paged_latent_attention,
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
