"""Rows rounded to 8-bit floats (E4M3) and back, in standard operators: the row over a scale, cut to the type's range.

The scale is the row's own: its greatest magnitude / 448, after the row was cut to the checkpoint's limits, if it has
some.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.build.graph.values import array_of, dtype_of, name_of, shape_of
from inflight.build.passes.rewrite import other_input, produced_by
from inflight.build.quantization.rows.row_scales import is_own_scale, write_own_scale
from inflight.build.quantization.stored_matrix import RoundedRows, RowFacts

FLOAT, FLOAT8 = ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN
_DTYPE: Literal["float8_e4m3fn"] = "float8_e4m3fn"


def write(builder: GraphBuilder, x: ir.Value, facts: RowFacts) -> ir.Value:
    """x float32 [batch, step, K] as E4M3 of x / its scale, times the scale."""
    op, shape = builder.op, shape_of(x)
    greatest = builder.constant(f"rows.{_DTYPE}.greatest", GREATEST_LEVEL[_DTYPE], np.float32)
    if facts.limits is not None:
        limits = zip(("low", "high"), facts.limits, strict=True)
        bounds = [builder.constant(f"rows.{_DTYPE}.{name}", value, np.float32) for name, value in limits]
        x = op("Clip", [x, *bounds], f"{name_of(x)}.clipped", FLOAT, shape)
    name, scale = name_of(x), write_own_scale(builder, x, greatest)
    scaled = op("Div", [x, scale], f"{name}.scaled", FLOAT, shape)
    levels = op("Cast", [scaled], f"{name}.levels", FLOAT8, shape, {"to": FLOAT8.value, "saturate": 1})
    wide = op("Cast", [levels], f"{name}.levels.float32", FLOAT, shape, {"to": FLOAT.value})
    return op("Mul", [wide, scale], f"{name}.{_DTYPE}", FLOAT, shape)


def find(value: ir.Value | None) -> RoundedRows | None:
    result = produced_by(value, "Mul")
    for wide in () if result is None else result.inputs:
        back = produced_by(wide, "Cast")
        there = None if back is None else produced_by(back.inputs[0], "Cast")
        scaled = None if there is None else produced_by(there.inputs[0], "Div")
        if result is None or wide is None or there is None or scaled is None or dtype_of(there.outputs[0]) != FLOAT8:
            continue
        (x, divisor), scale = scaled.inputs, other_input(result, wide)
        if x is None or scale is None or divisor is not scale or not is_own_scale(scale, x, GREATEST_LEVEL[_DTYPE]):
            continue
        source, limits = _limits(x)
        return RoundedRows(source, _DTYPE, there.outputs[0], scale, result.outputs[0], limits=limits)
    return None


def _limits(x: ir.Value) -> tuple[ir.Value, tuple[ir.Value, ir.Value] | None]:
    """What x is cut from, and the limits; x itself when it is not cut."""
    clip = produced_by(x, "Clip")
    if clip is None or len(clip.inputs) != 3:
        return x, None
    source, low, high = clip.inputs
    if source is None or low is None or high is None or array_of(low) is None or array_of(high) is None:
        return x, None
    return source, (low, high)
