"""NumPy references, in float64, of products with int8, int4 and float8 weights, and how those are stored."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


def weight_only(x: Array, weight: Array, weight_scale: Array, bias: Array | None, *, group_size: int) -> Doubles:
    """x [rows, k] times (weight * scale)', plus bias [n].

    weight [n, k] are levels, or float8 numbers; weight_scale is [n], or [ceil(k / group_size), n] with a group size.
    """
    columns = weight.shape[1]
    scales = weight_scale.astype(np.float64)
    full = np.repeat(scales, group_size, axis=0)[:columns].T if group_size else scales[:, None]
    product = x.astype(np.float64) @ (weight.astype(np.float64) * full).T
    return np.asarray(product if bias is None else product + bias.astype(np.float64))


def pack_int4(levels: Array) -> npt.NDArray[np.int8]:
    """int8 levels -8 .. 7 [n, k] to bytes [ceil(n / 2), k]: row 2i in the low half, 2i + 1 (or 0) in the high one."""
    even, odd = levels[0::2].astype(np.int8), np.zeros_like(levels[0::2], np.int8)
    odd[: len(levels) // 2] = levels[1::2]
    return np.asarray(np.left_shift(odd, 4) | (even & 15), np.int8)


def float8_numbers(bits: Array) -> Array:
    """The numbers of int8 bits in E4M3."""
    return np.asarray(bits.view(ml_dtypes.float8_e4m3fn))
