"""A NumPy reference of each fused operator of docs/formats/operators.md: inputs by position, attributes by keyword.

Weights may be of any type; arithmetic is float32. Results that the operator rounds to `act` are returned unrounded: the
type belongs to the graph's value, and whoever runs the graph casts to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.convert.quantization.schemes import RowDtype

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def embedding_lookup(token_ids: Array, weight: Array, *, scale: float) -> Floats:
    return _float32(weight[token_ids]) * np.float32(scale)


def rms_norm(x: Array, weight: Array, residual: Array | None = None, *, epsilon: float) -> Floats:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis, added to the residual."""
    x = _float32(x)
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
    return _added(_float32(x / np.sqrt(mean_square + np.float32(epsilon)) * _float32(weight)), None, residual)


def layer_norm(x: Array, weight: Array, bias: Array | None = None, *, epsilon: float) -> Floats:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis."""
    x = _float32(x)
    centered = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(np.square(centered), axis=-1, keepdims=True, dtype=np.float32)
    return _added(_float32(centered / np.sqrt(variance + np.float32(epsilon)) * _float32(weight)), bias, None)


def linear(x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None) -> Floats:
    return _added(_float32(x) @ _float32(weight).T, bias, residual)


def gated_linear(
    x: Array,
    gate: Array,
    up: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    *,
    activation: str,
) -> Floats:
    """activation(x gate' + gate_bias) * (x up' + up_bias)."""
    return activated(linear(x, gate, gate_bias), activation=activation) * linear(x, up, up_bias)


def activated(x: Array, *, activation: str) -> Floats:
    """silu: x / (1 + exp(-x)); gelu: x/2 (1 + erf(x / sqrt 2)); gelu_tanh, with a tanh near that; relu: max(x, 0)."""
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return _float32(_ACTIVATIONS[activation](x))


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
}


def scale(x: Array, *, factor: float) -> Floats:
    return _float32(x) * np.float32(factor)


def soft_cap(x: Array, *, cap: float) -> Floats:
    capped: Floats = np.float32(cap) * np.tanh(_float32(x) / np.float32(cap))
    return capped


def add_rows(x: Array, residual: Array, *, factor: float) -> Floats:
    return _float32(residual) + _float32(x) * np.float32(factor)


def quantize_rows(
    x: Array, scale: Array | None = None, low: Array | None = None, high: Array | None = None, *, type: RowDtype
) -> tuple[Array, Floats]:
    """x [..., K] to symmetric integers or 8-bit floats, and one scale per row.

    A row of zeros, or of denormals, has scale 0 as integers. 8-bit floats have the scale that is given, or their own
    once they are cut to `low` .. `high`.
    """
    x = _float32(x)
    greatest = np.float32(GREATEST_LEVEL[type])
    if type == "float8_e4m3fn":
        return _float8_rows(x, scale, x if low is None or high is None else np.clip(x, low, high))
    scale = _float32(np.max(np.abs(x), axis=-1, initial=0) / greatest)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(0), scale)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    levels = np.clip(np.rint(x * inverse[..., None]), -greatest, greatest)
    return levels.astype(type), scale


def _float8_rows(x: Floats, stored: Array | None, cut: Floats) -> tuple[Array, Floats]:
    greatest = np.float32(GREATEST_LEVEL["float8_e4m3fn"])
    if stored is None:
        scale = _float32(np.maximum(np.max(np.abs(cut), axis=-1, initial=0), np.float32(2**-100)) / greatest)
    else:
        cut, scale = x, np.full(x.shape[:-1], stored, np.float32)
    return np.clip(cut / scale[..., None], -greatest, greatest).astype(ml_dtypes.float8_e4m3fn), scale


def rms_norm_quantize(
    x: Array, weight: Array, *rounding: Array | None, epsilon: float, type: RowDtype
) -> tuple[Array, Floats]:
    return quantize_rows(rms_norm(x, weight, epsilon=epsilon), *rounding, type=type)


def gate(gate: Array, up: Array, *, activation: str) -> Floats:
    """activation(gate) * up."""
    return activated(gate, activation=activation) * _float32(up)


def quantized_linear(
    x: Array,
    x_scale: Array,
    weight: Array,
    weight_scale: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    *,
    group_size: int,
) -> Floats:
    """Products of levels, exact within a group (the whole row when group_size is 0), scaled and summed in float32."""
    size = group_size or x.shape[-1]
    scales = _float32(weight_scale).reshape(-1, weight_scale.shape[-1] if weight_scale.ndim == 2 else 1)
    total = np.zeros((*x.shape[:-1], weight.shape[0]), np.float32)
    for group, start in enumerate(range(0, x.shape[-1], size)):
        rows = x[..., start : start + size].astype(np.float64)
        total += _float32(rows @ weight[:, start : start + size].astype(np.float64).T) * scales[:, group]
    return _added(_float32(total * _float32(x_scale)[..., None]), bias, residual)


def quantized_gated_linear(
    x: Array,
    x_scale: Array,
    gate: Array,
    gate_scale: Array,
    up: Array,
    up_scale: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    *,
    activation: str,
    group_size: int,
) -> Floats:
    """activation(x gate' + gate_bias) * (x up' + up_bias)."""
    gated = quantized_linear(x, x_scale, gate, gate_scale, gate_bias, group_size=group_size)
    linear_part = quantized_linear(x, x_scale, up, up_scale, up_bias, group_size=group_size)
    return activated(gated, activation=activation) * linear_part


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
) -> tuple[Floats, Array, Array]:
    """Writes into `key_cache` and `value_cache`, rounding to their type, and returns them after the rotated q.

    An int8 cache is [blocks, Hkv, tokens_per_block, D + 4]: each head of a token is quantized as a row of
    `quantize_rows`, and its four last bytes are its float32 scale.
    """
    heads = qkv.reshape(len(qkv), -1, head_size)
    q, k, v = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
    q = q if q_norm is None else rms_norm(q, q_norm, epsilon=epsilon)
    k = k if k_norm is None else rms_norm(k, k_norm, epsilon=epsilon)
    if cos is not None and sin is not None:
        q, k = (_rotate(x, rotary_size, cos[positions], sin[positions]) for x in (q, k))
    blocks, slots = _places(positions, block_tables[sequence_of_row], key_cache.shape[2])
    key_cache[blocks, :, slots] = _cached(k, key_cache.dtype)
    value_cache[blocks, :, slots] = _cached(v, value_cache.dtype)
    return q.reshape(len(qkv), -1), key_cache, value_cache


def paged_attention(
    q: Array,
    key_cache: Array,
    value_cache: Array,
    positions: Array,
    sequence_of_row: Array,
    block_tables: Array,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    scale: float,
    window: int,
    softcap: float,
) -> Floats:
    """Row t sees positions 0 .. positions[t] of its sequence, the last `window` of them when window > 0.

    Scores become softcap * tanh(score / softcap) when softcap > 0.
    """
    rows = np.empty((len(q), num_kv_heads, num_heads // num_kv_heads, head_size), dtype=np.float32)
    for row, (position, sequence) in enumerate(zip(positions.tolist(), sequence_of_row.tolist(), strict=True)):
        seen = np.arange(max(0, position + 1 - window) if window else 0, position + 1)
        places = _places(seen, block_tables[sequence][None], key_cache.shape[2])
        keys, values = (_from_cache(cache[places[0], :, places[1]]) for cache in (key_cache, value_cache))
        grouped = q[row].reshape(num_kv_heads, -1, head_size)
        scores = np.einsum("hgd,phd->hgp", grouped, keys) * np.float32(scale)
        if softcap:
            scores = soft_cap(scores, cap=softcap)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        rows[row] = np.einsum("hgp,phd->hgd", weights / weights.sum(axis=-1, keepdims=True), values)
    return rows.reshape(len(q), -1)


def gather_rows(x: Array, rows: Array) -> Array:
    return x[rows]


def _float32(x: Array) -> Floats:
    return x.astype(np.float32, copy=False)


def _places(positions: Array, block_tables: Array, tokens_per_block: int) -> tuple[Array, Array]:
    """Block and slot within the block of each position; `block_tables` has one row, or one for each position."""
    rows = np.zeros(1, dtype=np.int64) if len(block_tables) == 1 else np.arange(len(positions))
    return block_tables[rows, positions // tokens_per_block], positions % tokens_per_block


def _cached(heads: Array, dtype: np.dtype[Any]) -> Array:
    """heads float32 [T, Hkv, D] as the cache holds them."""
    if dtype != np.int8:
        return heads
    levels, scale = quantize_rows(heads, type="int8")
    return np.concatenate([levels, scale[..., None].view(np.int8)], axis=-1)


def _from_cache(tokens: Array) -> Floats:
    if tokens.dtype != np.int8:
        return _float32(tokens)
    levels, scale = np.split(tokens, [-4], axis=-1)
    return _float32(levels) * np.ascontiguousarray(scale).view(np.float32)


def _added(product: Floats, bias: Array | None, residual: Array | None) -> Floats:
    """residual + (product + bias), whatever there is of it."""
    result = product if bias is None else product + _float32(bias)
    return result if residual is None else _float32(residual) + result


def _rotate(heads: Array, size: int, cos: Array, sin: Array) -> Floats:
    """heads [T, heads, D], cos and sin [T, size/2]: element i pairs with i + size/2 ("neox" style) for i < size/2."""
    first, second, rest = np.split(heads, [size // 2, size], axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


REFERENCES: Mapping[str, Callable[..., Array | tuple[Array, ...]]] = {
    "EmbeddingLookup": embedding_lookup,
    "RMSNorm": rms_norm,
    "LayerNorm": layer_norm,
    "Linear": linear,
    "GatedLinear": gated_linear,
    "Activation": activated,
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
}
