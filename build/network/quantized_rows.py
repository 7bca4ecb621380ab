"""Rows rounded to integers or 8-bit floats and back, in standard operators: what a quantized product reads.

8-bit floats (E4M3) are the row over a scale that the checkpoint has. Integers are symmetric, one scale per row, taken
from the row itself: greatest magnitude / greatest level; a level is the value times the scale's reciprocal, rounded to
nearest, ties to even.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.build.graph.values import name_of, shape_of

FLOAT, FLOAT8 = ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN
# A row of zeros gets this magnitude, so that its scale has a reciprocal; its levels are zeros all the same.
LEAST_MAGNITUDE = 2.0**-100


class RoundedRows:
    """Rounds rows, and the same rows for several products only once."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._made: dict[tuple[str, int], ir.Value] = {}

    def __call__(self, x: ir.Value, bits: int) -> ir.Value:
        """x float32 [batch, step, K] rounded to `bits` bits, as float32 of the same shape."""
        key = (name_of(x), bits)
        if key not in self._made:
            self._made[key] = self._round(x, bits)
        return self._made[key]

    def float8(self, x: ir.Value, scale: ir.Value, name: str) -> ir.Value:
        """x float32 [batch, step, K] as E4M3 of x / scale [], clamped to its range, times scale."""
        op, shape = self._builder.op, shape_of(x)
        attributes = {"output_dtype": FLOAT8.value}
        levels = op("QuantizeLinear", [x, scale], f"{name}.float8", FLOAT8, shape, attributes)
        return op("DequantizeLinear", [levels, scale], f"{name}.rows", FLOAT, shape)

    def _round(self, x: ir.Value, bits: int) -> ir.Value:
        op, constant, name, shape = self._builder.op, self._builder.constant, name_of(x), shape_of(x)
        column = (*shape[:-1], 1)
        greatest = constant(f"rows.int{bits}.greatest", GREATEST_LEVEL[bits], np.float32)
        least = constant(f"rows.int{bits}.least", -GREATEST_LEVEL[bits], np.float32)
        floor = constant("rows.least_magnitude", LEAST_MAGNITUDE, np.float32)
        axes = constant("rows.axes", [-1])
        magnitudes = op("Abs", [x], f"{name}.magnitudes", FLOAT, shape)
        largest = op("ReduceMax", [magnitudes, axes], f"{name}.largest", FLOAT, column, {"keepdims": 1})
        magnitude = op("Max", [largest, floor], f"{name}.magnitude", FLOAT, column)
        scale = op("Div", [magnitude, greatest], f"{name}.scale", FLOAT, column)
        inverse = op("Reciprocal", [scale], f"{name}.inverse_scale", FLOAT, column)
        scaled = op("Mul", [x, inverse], f"{name}.scaled", FLOAT, shape)
        rounded = op("Round", [scaled], f"{name}.rounded", FLOAT, shape)
        levels = op("Clip", [rounded, least, greatest], f"{name}.levels", FLOAT, shape)
        return op("Mul", [levels, scale], f"{name}.int{bits}", FLOAT, shape)
