"""Constants of rows that meet weights of 8-bit floats, as the kernels of float8_rows.h take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from inflight.build.graph.values import array_of, dtype_of, shape_of

FLOAT8 = ir.DataType.FLOAT8E4M3FN
# Types of rows that the kernels of float8_rows.h make.
FLOAT_ROWS = (FLOAT8, ir.DataType.BFLOAT16)


def float8_row(y: ir.Value, rounding: Sequence[ir.Value | None]) -> str:
    """A `float8_row`; `rounding` are the inputs scale, low and high of the operator, as many as there are."""
    scale, low, high = (*rounding, None, None, None)[:3]
    return _row(dtype_of(y), int(shape_of(y)[-1]), scale, low, high)


def inner_row(rows: ir.DataType, proj: ir.Value) -> str:
    """The same of rows of this type that meet the second products of experts: each has a scale of its own."""
    return _row(rows, int(shape_of(proj)[-1]), None, None, None)


def _row(rows: ir.DataType, width: int, scale: ir.Value | None, low: ir.Value | None, high: ir.Value | None) -> str:
    kind = "UNROUNDED" if rows != FLOAT8 else "OWN_SCALE" if scale is None else "STORED_SCALE"
    return f"(float8_row){{{width}, {kind}, {_number(low, -np.inf)}, {_number(high, np.inf)}}}"


def stored_scale(scale: ir.Value | None) -> str:
    """The one scale of all rows, or 0."""
    return _number(scale, 0.0)


def _number(value: ir.Value | None, default: float) -> str:
    """A float32 literal that is read back as the same bits."""
    array = array_of(value)
    number = default if array is None else float(np.float32(array.item()))
    if np.isinf(number):
        return "-__builtin_inff()" if number < 0 else "__builtin_inff()"
    return f"{number.hex()}f"
