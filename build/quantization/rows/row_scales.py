"""The scale of a row that the row itself gives: its greatest magnitude over the greatest level."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import array_of, name_of, shape_of
from inflight.build.passes.rewrite import integer, produced_by

FLOAT = ir.DataType.FLOAT
# A row of zeros gets this magnitude, so that its scale has a reciprocal; its levels are zeros all the same.
LEAST_MAGNITUDE = 2.0**-100


def write_own_scale(builder: GraphBuilder, x: ir.Value, greatest: ir.Value) -> ir.Value:
    """float32 [..., 1] for x float32 [..., K]; `greatest` is a constant."""
    op, constant, name, shape = builder.op, builder.constant, name_of(x), shape_of(x)
    column = (*shape[:-1], 1)
    floor = constant("rows.least_magnitude", LEAST_MAGNITUDE, np.float32)
    axes = constant("rows.axes", [-1])
    magnitudes = op("Abs", [x], f"{name}.magnitudes", FLOAT, shape)
    largest = op("ReduceMax", [magnitudes, axes], f"{name}.largest", FLOAT, column, {"keepdims": 1})
    magnitude = op("Max", [largest, floor], f"{name}.magnitude", FLOAT, column)
    return op("Div", [magnitude, greatest], f"{name}.scale", FLOAT, column)


def is_own_scale(scale: ir.Value | None, x: ir.Value, greatest: float) -> bool:
    """True when `scale` is the greatest magnitude of each row of `x` over `greatest`."""
    division = produced_by(scale, "Div")
    level = None if division is None else array_of(division.inputs[1])
    floor = None if division is None else produced_by(division.inputs[0], "Max")
    if floor is None or level is None or level != greatest:
        return False
    for magnitude in floor.inputs:
        largest = produced_by(magnitude, "ReduceMax")
        if largest is None or integer(largest, "keepdims", 1) != 1 or len(largest.inputs) != 2:
            continue
        magnitudes, axes = produced_by(largest.inputs[0], "Abs"), array_of(largest.inputs[1])
        if magnitudes is not None and magnitudes.inputs[0] is x and axes is not None and axes.tolist() == [-1]:
            return True
    return False
