"""Rows rounded to integers and back become QuantizeRows and a DequantizeLinear, which the products then take up.

The pattern is that of build/network/quantized_rows.py: levels = Clip(Round(x / scale)), scale = greatest magnitude of
the row / greatest level, result = levels * scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.build.graph.values import array_of, dtype_of, name_of, new_value, shape_of
from inflight.build.passes.rewrite import (
    fused,
    integer,
    like,
    nodes_of,
    only_consumer,
    other_input,
    produced_by,
    replace,
)

_TYPES = {8: ir.DataType.INT8, 16: ir.DataType.INT16}


@dataclass(frozen=True, slots=True)
class _Rounding:
    """x [..., K] rounded to `bits` bits: `result` is the levels times `scale` [..., 1]; `axes` is the constant -1."""

    x: ir.Value
    bits: int
    scale: ir.Value
    axes: ir.Value
    levels: ir.Value
    result: ir.Value


def fuse_quantize_rows(graph: ir.Graph) -> None:
    for node in nodes_of(graph, "Round"):
        match = _match(node)
        if match is None:
            continue
        shape = shape_of(match.x)
        levels = new_value(name_of(match.levels), _TYPES[match.bits], shape)
        scale = new_value(name_of(match.scale), ir.DataType.FLOAT, shape[:-1])
        column = new_value(f"{name_of(match.scale)}.column", ir.DataType.FLOAT, (*shape[:-1], 1))
        rows = fused("QuantizeRows", [match.x], [levels, scale], {"bits": match.bits})
        column_node = ir.node("Unsqueeze", [scale, match.axes], outputs=[column], name=name_of(column))
        attributes = {"axis": len(shape) - 1, "block_size": int(shape[-1])}
        back = ir.node("DequantizeLinear", [levels, column], attributes, outputs=[like(match.result)])
        back.name = name_of(match.result)
        graph.insert_before(node, [rows, column_node, back])
        replace(graph, [match.result], back.outputs)


def _match(rounding: ir.Node) -> _Rounding | None:
    scaled = produced_by(rounding.inputs[0], "Mul")
    clip = only_consumer(rounding.outputs[0], "Clip")
    result = None if clip is None else only_consumer(clip.outputs[0], "Mul")
    if scaled is None or clip is None or result is None:
        return None
    scale = other_input(result, clip.outputs[0])
    bits = _bits(clip)
    for x, inverse in (tuple(scaled.inputs), tuple(reversed(scaled.inputs))):
        reciprocal = produced_by(inverse, "Reciprocal")
        axes = None if bits is None else _axes(scale, x, bits)
        if reciprocal is None or reciprocal.inputs[0] is not scale or x is None or dtype_of(x) != ir.DataType.FLOAT:
            continue
        if bits is not None and scale is not None and axes is not None:
            return _Rounding(x, bits, scale, axes, clip.outputs[0], result.outputs[0])
    return None


def _bits(clip: ir.Node) -> int | None:
    least, greatest = (array_of(value) for value in clip.inputs[1:3])
    if least is None or greatest is None or least != -greatest:
        return None
    return next((bits for bits, level in GREATEST_LEVEL.items() if level == greatest), None)


def _axes(scale: ir.Value | None, x: ir.Value | None, bits: int) -> ir.Value | None:
    """The constant -1 over which the greatest magnitude is taken, if `scale` is that magnitude / the greatest level."""
    division = produced_by(scale, "Div")
    level = None if division is None else array_of(division.inputs[1])
    floor = None if division is None else produced_by(division.inputs[0], "Max")
    if floor is None or level is None or level != GREATEST_LEVEL[bits]:
        return None
    for magnitude in floor.inputs:
        largest = produced_by(magnitude, "ReduceMax")
        if largest is None or integer(largest, "keepdims", 1) != 1 or len(largest.inputs) != 2:
            continue
        magnitudes, axes = produced_by(largest.inputs[0], "Abs"), largest.inputs[1]
        numbers = array_of(axes)
        if magnitudes is not None and magnitudes.inputs[0] is x and numbers is not None and numbers.tolist() == [-1]:
            return axes
    return None
