"""Rows rounded to integers and back, in standard operators.

Integers are symmetric, one scale per row, taken from the row itself: greatest magnitude / greatest level; a level is
the value times the scale's reciprocal, rounded to nearest, ties to even.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.build.graph.values import array_of, dtype_of, name_of, shape_of
from inflight.build.passes.rewrite import only_consumer, other_input, produced_by
from inflight.build.quantization.rows.row_scales import is_own_scale, write_own_scale
from inflight.build.quantization.stored_matrix import RoundedRows, RowFacts
from inflight.convert.quantization.schemes import RowDtype

FLOAT = ir.DataType.FLOAT


def write(builder: GraphBuilder, x: ir.Value, facts: RowFacts) -> ir.Value:
    """x float32 [batch, step, K] rounded, as float32 of the same shape."""
    op, constant, name, shape = builder.op, builder.constant, name_of(x), shape_of(x)
    greatest = constant(f"rows.{facts.dtype}.greatest", GREATEST_LEVEL[facts.dtype], np.float32)
    least = constant(f"rows.{facts.dtype}.least", -GREATEST_LEVEL[facts.dtype], np.float32)
    scale = write_own_scale(builder, x, greatest)
    inverse = op("Reciprocal", [scale], f"{name}.inverse_scale", FLOAT, shape_of(scale))
    scaled = op("Mul", [x, inverse], f"{name}.scaled", FLOAT, shape)
    rounded = op("Round", [scaled], f"{name}.rounded", FLOAT, shape)
    levels = op("Clip", [rounded, least, greatest], f"{name}.levels", FLOAT, shape)
    return op("Mul", [levels, scale], f"{name}.{facts.dtype}", FLOAT, shape)


def find(value: ir.Value | None) -> RoundedRows | None:
    """levels = Clip(Round(x / scale)), value = levels * scale, and the scale is the row's own."""
    result = produced_by(value, "Mul")
    if result is None:
        return None
    for levels in result.inputs:
        clip = produced_by(levels, "Clip")
        rounding = None if clip is None else produced_by(clip.inputs[0], "Round")
        if clip is not None and rounding is not None:
            return _match(rounding, clip, result)
    return None


def _match(rounding: ir.Node, clip: ir.Node, result: ir.Node) -> RoundedRows | None:
    scaled, dtype = produced_by(rounding.inputs[0], "Mul"), _dtype(clip)
    if scaled is None or dtype is None or only_consumer(clip.outputs[0], "Mul") is None:
        return None
    scale = other_input(result, clip.outputs[0])
    for x, inverse in (tuple(scaled.inputs), tuple(reversed(scaled.inputs))):
        reciprocal = produced_by(inverse, "Reciprocal")
        if reciprocal is None or reciprocal.inputs[0] is not scale or x is None or dtype_of(x) != FLOAT:
            continue
        if scale is not None and is_own_scale(scale, x, GREATEST_LEVEL[dtype]):
            return RoundedRows(x, dtype, clip.outputs[0], scale, result.outputs[0])
    return None


def _dtype(clip: ir.Node) -> RowDtype | None:
    least, greatest = (array_of(value) for value in clip.inputs[1:3])
    if least is None or greatest is None or least != -greatest:
        return None
    return next((dtype for dtype, level in GREATEST_LEVEL.items() if level == greatest), None)
