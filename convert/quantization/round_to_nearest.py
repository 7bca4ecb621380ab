"""Symmetric round-to-nearest quantization of matrices, and back.

int8: one scale per row, greatest magnitude / 127, levels -127 .. 127. int4: one scale per group of a row, levels
-8 .. 7; the scale is that one of a few candidates which leaves the least squared error (the extremes of a group are
cut off where that serves the rest). 8-bit floats (E4M3: Micikevicius et al., 2022): one scale per row, greatest
magnitude / 448, and never below the least that TensorRT-LLM writes. Codes: the nearest number of the codebook, with
one scale per group, the greatest magnitude over that of the codebook, as a float16 number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.codebooks import CODEBOOKS, nearest_codes
from inflight.convert.quantization.multiples import whole_multiples
from inflight.convert.quantization.schemes import Codebook, QuantScheme, ScaleShare, WeightDtype

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int8]

INT8_GREATEST = 127
FLOAT8_GREATEST = 448
LEAST_FLOAT8_SCALE = 1 / (FLOAT8_GREATEST * 512)


def quantize(rows: Floats, scheme: QuantScheme, group_size: int) -> tuple[Array, Floats]:
    """rows [N, K] as the levels [N, K] of a scheme (int4 one to an int8) and their scales, [N] or [N, groups]."""
    if scheme.weights.codebook is not None:
        return quantize_codes(rows, scheme.weights.codebook, group_size)
    if scheme.multiples:
        return quantize_groups(rows, scheme.divisors, group_size, multiples=True)
    return _ROUNDINGS[scheme.weights.dtype, scheme.weights.scale](rows, scheme.divisors, group_size)


def quantize_rows(rows: Floats) -> tuple[Levels, Floats]:
    """rows [N, K] -> levels [N, K], scales [N]. A row of zeros has scale 0."""
    scales = np.abs(rows).max(axis=-1, initial=0) / np.float32(INT8_GREATEST)
    levels = np.rint(_divided(rows, scales[:, None]))
    return np.clip(levels, -INT8_GREATEST, INT8_GREATEST).astype(np.int8), scales


def quantize_float8_rows(rows: Floats) -> tuple[Array, Floats]:
    """rows [N, K] -> float8_e4m3fn [N, K], scales [N]."""
    greatest = np.abs(rows).max(axis=-1, initial=0) / np.float32(FLOAT8_GREATEST)
    scales = np.maximum(greatest, np.float32(LEAST_FLOAT8_SCALE))
    return float8_levels(rows, scales[:, None]), scales


def float8_levels(rows: Floats, scales: Floats) -> Array:
    """rows [N, K] over scales that broadcast, as float8_e4m3fn."""
    levels: Array = np.clip(rows / scales, -FLOAT8_GREATEST, FLOAT8_GREATEST).astype(ml_dtypes.float8_e4m3fn)
    return levels


def quantize_groups(
    rows: Floats, divisors: Sequence[float], group_size: int, *, multiples: bool = False
) -> tuple[Levels, Floats]:
    """rows [N, K] -> levels [N, K], scales [N, ceil(K / group_size)]; the last group of a row may be shorter.

    The scale of a group is its greatest magnitude over that one of `divisors` which leaves the least squared error;
    with `multiples` a whole multiple of a unit near it.
    """
    (count, width), blocks = rows.shape, _blocks(rows, group_size)

    def lost(scales: Floats) -> Floats:
        error: Floats = np.square(_int4_levels(blocks, scales) * scales[..., None] - blocks).sum(axis=-1)
        return error

    groups = blocks.shape[1]
    greatest = np.abs(blocks).max(axis=-1, initial=0)
    best_error = np.full((count, groups), np.inf, np.float32)
    best_scales = np.zeros((count, groups), np.float32)
    for divisor in divisors:
        scales = greatest / np.float32(divisor)
        error = lost(scales)
        better = error < best_error
        best_error[better], best_scales[better] = error[better], scales[better]
    if multiples:
        best_scales = whole_multiples(best_scales, lost)
    levels = _int4_levels(blocks, best_scales).astype(np.int8)
    return levels.reshape(count, -1)[:, :width], best_scales


def quantize_codes(rows: Floats, codebook: Codebook, group_size: int) -> tuple[Levels, Floats]:
    """rows [N, K] -> codes [N, K], scales [N, ceil(K / group_size)], which are float16 numbers."""
    (count, width), blocks = rows.shape, _blocks(rows, group_size)
    greatest = np.abs(blocks).max(axis=-1, initial=0) / np.abs(CODEBOOKS[codebook]).max()
    scales = np.clip(greatest, 0, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)
    codes = nearest_codes(_divided(blocks, scales[..., None]), codebook)
    return codes.reshape(count, -1)[:, :width], scales


def _blocks(rows: Floats, group_size: int) -> Floats:
    """rows [N, K] as [N, groups, group_size], with zeros behind the last group."""
    count, width = rows.shape
    groups = -(-width // group_size)
    if width % group_size:
        rows = np.pad(rows, ((0, 0), (0, groups * group_size - width)))
    return rows.reshape(count, groups, group_size)


def pack_pairs(levels: Levels) -> Levels:
    """int4 levels [2 n, K] -> bytes [n, K]: row 2 i in the low nibble of row i, row 2 i + 1 in the high one."""
    low, high = levels[0::2].view(np.uint8), levels[1::2].view(np.uint8)
    return (low & 0xF | high << 4).view(np.int8)


def unpack_pairs(packed: Levels, rows: int, *, signed: bool = True) -> Levels:
    """The inverse of `pack_pairs`, cut to `rows` rows; what is not `signed` is 0 .. 15."""
    levels = np.empty((2 * packed.shape[0], packed.shape[1]), np.int8)
    levels[0::2] = packed << 4 >> 4
    levels[1::2] = packed >> 4
    return levels[:rows] if signed else levels[:rows] & np.int8(0xF)


def dequantize(
    levels: Array, scales: Floats, group_size: int, zeros: Floats | None = None, codebook: Codebook | None = None
) -> Floats:
    """levels [N, K], or what a codebook has for them, times their scales: [1], [N], or [N, ceil(K / group_size)]; plus
    zero points of those groups.
    """
    if codebook is not None:
        levels = CODEBOOKS[codebook][levels]
    if not group_size:
        wide: Floats = levels.astype(np.float32) * scales[:, None]
        return wide
    grouped: Floats = levels.astype(np.float32) * np.repeat(scales, group_size, axis=-1)[:, : levels.shape[1]]
    return grouped if zeros is None else grouped + np.repeat(zeros, group_size, axis=-1)[:, : levels.shape[1]]


def _int4_levels(blocks: Floats, scales: Floats) -> Floats:
    return np.clip(np.rint(_divided(blocks, scales[..., None])), -8, 7)


def _divided(values: Floats, scales: Floats) -> Floats:
    """values / scales, 0 where the scale is."""
    return np.divide(values, scales, out=np.zeros_like(values), where=scales > 0)


_Rounding = Callable[[Floats, Sequence[float], int], tuple[Array, Floats]]
_ROUNDINGS: Mapping[tuple[WeightDtype, ScaleShare], _Rounding] = {
    ("int8", "row"): lambda rows, _, __: quantize_rows(rows),
    ("int4", "group"): quantize_groups,
    ("float8_e4m3fn", "row"): lambda rows, _, __: quantize_float8_rows(rows),
}
