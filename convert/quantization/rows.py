"""How the rows of a product are rounded, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.round_to_nearest import FLOAT8_GREATEST, float8_levels
from inflight.convert.quantization.schemes import RowDtype
from inflight.dtypes import numpy_dtype

Floats = npt.NDArray[np.float32]

_GREATEST = {"int8": 127, "int16": 32639, "float8_e4m3fn": FLOAT8_GREATEST}
# Of a row of zeros, so that its scale divides.
_LEAST = np.float32(2.0**-100)


class RowRounding(NamedTuple):
    """Rows are rounded to bfloat16; or cut to `limits`, divided by `scale` (None: their greatest magnitude over the
    greatest level) and rounded to another `dtype`.
    """

    dtype: RowDtype
    scale: float | None = None
    limits: tuple[float, float] | None = None


def rounded_rows(rows: Floats, rounding: RowRounding) -> Floats:
    """Rows float32 [count, K] as levels times their scales."""
    dtype, stored, limits = rounding
    if dtype == "bfloat16":
        return rows.astype(numpy_dtype(dtype)).astype(np.float32)
    if limits is not None:
        rows = np.clip(rows, np.float32(limits[0]), np.float32(limits[1]))
    if stored is None:
        greatest = np.maximum(np.abs(rows).max(axis=-1, keepdims=True, initial=0), _LEAST)
        scale = greatest / np.float32(_GREATEST[dtype])
    else:
        scale = np.full((1, 1), stored, np.float32)
    if dtype == "float8_e4m3fn":
        levels = float8_levels(rows, scale).astype(np.float32)
    else:
        levels = np.clip(np.rint(rows / scale), -128 if dtype == "int8" else -_GREATEST[dtype], _GREATEST[dtype])
    rounded: Floats = levels * scale
    return rounded
