"""NumPy references of the fused operators on rounded rows and quantized weights (fused_operators.py has the others)."""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.convert.quantization.schemes import RowDtype
from tests.oracles.fused_floats import activated, added, float32, rms_norm

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def quantize_rows(
    x: Array,
    scale: Array | None = None,
    low: Array | None = None,
    high: Array | None = None,
    factors: Array | None = None,
    order: Array | None = None,
    *,
    type: RowDtype | Literal["float8_integers"],
) -> tuple[Array, Floats]:
    """x [..., K], in this order of its values, times `factors` [K], to symmetric integers or 8-bit floats, and one
    scale per row.

    A row of zeros, or of denormals, has scale 0 as integers. Rows have the scale that is given, or their own, 8-bit
    floats once they are cut to `low` .. `high`; bfloat16 has 1. As "float8_integers" those of a given scale are
    multiples of 2^-9.
    """
    if type == "float8_integers":
        floats, scale = quantize_rows(x, scale, factors=factors, order=order, type="float8_e4m3fn")
        return (float32(floats) * 512).astype(np.int32), float32(scale / np.float32(512))
    x = x if order is None else x[..., order]
    x = float32(x) if factors is None else float32(x) * float32(factors)
    if type == "bfloat16":
        return x.astype(ml_dtypes.bfloat16), np.ones(x.shape[:-1], np.float32)
    greatest = np.float32(GREATEST_LEVEL[type])
    if type == "float8_e4m3fn":
        return _float8_rows(x, scale, x if low is None or high is None else np.clip(x, low, high))
    if scale is not None:
        return np.clip(np.rint(x / scale), -128, 127).astype(type), np.full(x.shape[:-1], scale, np.float32)
    scale = float32(np.max(np.abs(x), axis=-1, initial=0) / greatest)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(0), scale)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    levels = np.clip(np.rint(x * inverse[..., None]), -greatest, greatest)
    return levels.astype(type), scale


def _float8_rows(x: Floats, stored: Array | None, cut: Floats) -> tuple[Array, Floats]:
    greatest = np.float32(GREATEST_LEVEL["float8_e4m3fn"])
    if stored is None:
        scale = float32(np.maximum(np.max(np.abs(cut), axis=-1, initial=0), np.float32(2**-100)) / greatest)
    else:
        cut, scale = x, np.full(x.shape[:-1], stored, np.float32)
    return np.clip(cut / scale[..., None], -greatest, greatest).astype(ml_dtypes.float8_e4m3fn), scale


def rms_norm_quantize(
    x: Array, weight: Array, *rounding: Array | None, epsilon: float, type: RowDtype | Literal["float8_integers"]
) -> tuple[Array, Floats]:
    return quantize_rows(rms_norm(x, weight, epsilon=epsilon), *rounding, type=type)


def quantized_linear(
    x: Array,
    x_scale: Array,
    weight: Array,
    weight_scale: Array,
    bias: Array | None = None,
    zero: Array | None = None,
    residual: Array | None = None,
    codebook: Array | None = None,
    *,
    group_size: int,
) -> Floats:
    """Products of levels, exact within a group (the whole row when group_size is 0), scaled and summed in float32; zero
    points times the sums of levels of the rows are added to them. With a `codebook` [16] levels are codes.
    """
    weight = weight.astype(np.float64) if codebook is None else codebook.astype(np.float64)[weight.astype(np.int8)]
    size = group_size or x.shape[-1]
    scales = float32(weight_scale).reshape(-1, weight_scale.shape[-1] if weight_scale.ndim == 2 else 1)
    total = np.zeros((*x.shape[:-1], weight.shape[0]), np.float32)
    for group, start in enumerate(range(0, x.shape[-1], size)):
        rows = x[..., start : start + size].astype(np.float64)
        total += float32(rows @ weight[:, start : start + size].T) * scales[:, group]
        if zero is not None:
            total += float32(rows.sum(axis=-1, keepdims=True)) * float32(zero)[:, group]
    return added(float32(total * float32(x_scale)[..., None]), bias, residual)


def quantized_gated_linear(
    x: Array,
    x_scale: Array,
    gate: Array,
    gate_scale: Array,
    up: Array,
    up_scale: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    gate_zero: Array | None = None,
    up_zero: Array | None = None,
    codebook: Array | None = None,
    *,
    activation: str,
    group_size: int,
) -> Floats:
    """activation(x gate' + gate_bias) * (x up' + up_bias)."""
    gated = quantized_linear(
        x, x_scale, gate, gate_scale, gate_bias, gate_zero, codebook=codebook, group_size=group_size
    )
    linear_part = quantized_linear(x, x_scale, up, up_scale, up_bias, up_zero, codebook=codebook, group_size=group_size)
    return activated(gated, activation=activation) * linear_part
