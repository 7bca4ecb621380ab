"""The documented meaning of each TensorRT layer that the builder uses, in NumPy: (layer, operands) -> output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from inflight.build.targets.tensorrt.lowering.host_tensor import Array


def _float32(x: Array) -> Array:
    return np.asarray(x, dtype=np.float32)


def _wide(x: Array) -> Array:
    """Arithmetic on 16-bit floats happens in float32; integers and booleans stay."""
    return x if x.dtype.kind in "iub" else _float32(x)


def _cast(layer: Any, x: Array) -> Array:
    """The interpreter rounds every result to its tensor's type."""
    return x


def _shuffle(layer: Any, x: Array) -> Array:
    """Transpose, reshape, transpose. 0 copies the input's dimension; -1 is inferred."""
    x = np.transpose(x, list(layer.first_transpose)[: x.ndim])
    if not _keeps_shape(layer):
        dims = list(layer.reshape_dims)
        x = x.reshape([x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(dims)])
    return np.transpose(x, list(layer.second_transpose)[: x.ndim])


def _keeps_shape(layer: Any) -> bool:
    """A reshape that was never set has no dimensions."""
    dims = layer.reshape_dims
    return dims is None or len(dims) <= 0


def _gather(layer: Any, x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=layer.axis)


def _concatenation(layer: Any, *tensors: Array) -> Array:
    return np.concatenate(tensors, axis=layer.axis)


def _slice(layer: Any, x: Array) -> Array:
    """start, size and stride of the axes in `axes`, or of all."""
    axes = list(layer.axes) if layer.axes is not None and len(layer.axes) > 0 else range(x.ndim)
    pieces = [slice(None)] * x.ndim
    for axis, start, size, stride in zip(axes, layer.start, layer.shape, layer.stride, strict=True):
        pieces[axis] = slice(start, start + size * stride, stride)
    return x[tuple(pieces)]


_UNARY: Mapping[str, Callable[[Array], Array]] = {
    "ABS": np.abs,
    "NOT": np.logical_not,
    "RECIP": np.reciprocal,
    "ROUND": np.rint,
    "SQRT": np.sqrt,
}


def _unary(layer: Any, x: Array) -> Array:
    return _UNARY[layer.op.name](_wide(x))


def _activation(layer: Any, x: Array) -> Array:
    assert layer.type.name == "SIGMOID", layer.name
    x = _float32(x)
    return _float32(1 / (1 + np.exp(-x)))


_ELEMENTWISE: Mapping[str, Callable[[Array, Array], Array]] = {
    "SUM": np.add,
    "SUB": np.subtract,
    "PROD": np.multiply,
    "DIV": np.divide,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "AND": np.logical_and,
    "GREATER": np.greater,
    "LESS": np.less,
    "EQUAL": np.equal,
}


def _elementwise(layer: Any, left: Array, right: Array) -> Array:
    """Ranks are equal; sizes are, or one is 1."""
    assert left.ndim == right.ndim and left.dtype == right.dtype, f"{layer.name}: {left.dtype} {right.dtype}"
    return _ELEMENTWISE[layer.op.name](_wide(left), _wide(right))


_REDUCE: Mapping[str, Callable[..., Array]] = {"AVG": np.mean, "MAX": np.max, "SUM": np.sum}


def _reduce(layer: Any, x: Array) -> Array:
    axes = tuple(axis for axis in range(x.ndim) if layer.axes >> axis & 1)
    return _REDUCE[layer.op.name](_float32(x), axis=axes, keepdims=layer.keep_dims)


def _matrix_multiply(layer: Any, left: Array, right: Array) -> Array:
    """Sums in float32; operands are of one type, as in a strongly typed network."""
    assert left.dtype == right.dtype, f"{layer.name}: {left.dtype} and {right.dtype}"
    operands = ((left, layer.op0), (right, layer.op1))
    left, right = (np.swapaxes(_float32(x), -1, -2) if op.name == "TRANSPOSE" else _float32(x) for x, op in operands)
    return _float32(np.matmul(left, right))


def _quantize(layer: Any, x: Array, scale: Array) -> Array:
    """clamp(round half even(x / scale)) to the output's range."""
    levels = _float32(x) / _spread(layer, _float32(scale), x)
    kind = layer.get_output(0).dtype.name
    if kind == "FP8":
        return np.clip(levels, -448.0, 448.0)
    low, high = {"INT8": (-128, 127), "INT4": (-8, 7)}[kind]
    return np.clip(np.rint(levels), low, high)


def _dequantize(layer: Any, x: Array, scale: Array) -> Array:
    return _float32(x) * _spread(layer, _float32(scale), x)


def _spread(layer: Any, scale: Array, x: Array) -> Array:
    """A scalar, one scale for each index of `axis`, or one for each block along the axis on which the sizes differ."""
    if scale.ndim == 0 or scale.size == 1:
        return scale.reshape([1] * x.ndim)
    if scale.ndim == 1:
        return scale.reshape([-1 if axis == layer.axis % x.ndim else 1 for axis in range(x.ndim)])
    for axis, (size, count) in enumerate(zip(x.shape, scale.shape, strict=True)):
        assert size % count == 0, f"{layer.name}: {size} elements in {count} blocks"
        scale = np.repeat(scale, size // count, axis=axis)
    return scale


def _rotary_embedding(layer: Any, x: Array, cos: Array, sin: Array, positions: Array) -> Array:
    """x [B, heads, S, D]; the pairs are (i, i + D / 2) unless interleaved; tables [P, D / 2] at positions [B, S]."""
    assert not layer.interleaved, layer.name
    first, second = np.split(_float32(x), 2, axis=-1)
    cos, sin = (_float32(table)[positions][:, None] for table in (cos, sin))
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _kv_cache_update(layer: Any, cache: Array, update: Array, index: Array, lengths: Array) -> Array:
    """update [T, heads, D], cumulative lengths [B + 1]: the rows of sequence b go to cache[b, :, index[b] ...]."""
    assert layer.update_form.name == "PACKED_NHD" and layer.cache_mode.name == "LINEAR", layer.name
    assert lengths[0] == 0 and lengths[-1] == len(update) and len(lengths) == len(cache) + 1, layer.name
    written = cache.copy()
    for slot, (start, end) in enumerate(pairwise(lengths)):
        rows = np.swapaxes(update[start:end], 0, 1)
        assert index[slot] + end - start <= cache.shape[2], f"{layer.name} writes past slot {slot}"
        written[slot, :, index[slot] : index[slot] + end - start] = rows
    return written


def attend(attention: Any, value_of: Callable[[Any], Array]) -> Array:
    """Softmax(q k' under the mask and the lengths) v; k and v heads are shared by groups of q heads; no scaling."""
    assert attention.norm_op.name == "SOFTMAX" and attention.causal_kind.name == "NONE", attention.name
    query, key, value = (value_of(attention.get_input(index)) for index in range(3))
    mask, lengths = value_of(attention.mask), value_of(attention.key_value_lengths)
    assert query.dtype == key.dtype == value.dtype, attention.name
    group = query.shape[1] // key.shape[1]
    key, value = (np.repeat(_float32(x), group, axis=1) for x in (key, value))
    scores = np.matmul(_float32(query), np.swapaxes(key, -1, -2))
    visible = mask & (np.arange(key.shape[2]) < lengths[:, None, None, None])
    scores = np.where(visible, scores, -np.inf)
    peak = np.max(scores, axis=-1, keepdims=True)
    # A padded row may see nothing; its result is not defined, and nothing reads it.
    weights = np.exp(scores - np.where(np.isfinite(peak), peak, 0))
    total = np.sum(weights, axis=-1, keepdims=True)
    return _float32(np.matmul(weights / np.where(total > 0, total, 1), value))


LAYERS: Mapping[str, Callable[..., Array]] = {
    "CAST": _cast,
    "SHUFFLE": _shuffle,
    "GATHER": _gather,
    "CONCATENATION": _concatenation,
    "SLICE": _slice,
    "UNARY": _unary,
    "ACTIVATION": _activation,
    "ELEMENTWISE": _elementwise,
    "REDUCE": _reduce,
    "MATRIX_MULTIPLY": _matrix_multiply,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
    "ROTARY_EMBEDDING": _rotary_embedding,
    "KV_CACHE_UPDATE": _kv_cache_update,
}
