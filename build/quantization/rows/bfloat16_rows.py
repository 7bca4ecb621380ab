"""Rows rounded to bfloat16 and back, in standard operators: a Cast to it and a Cast from it. Their scale is 1."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.passes.rewrite import produced_by
from inflight.build.quantization.stored_matrix import RoundedRows, RowFacts

FLOAT, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16


def write(builder: GraphBuilder, x: ir.Value, facts: RowFacts) -> ir.Value:
    """x float32 [batch, step, K] rounded, as float32 of the same shape."""
    op, name, shape = builder.op, f"{name_of(x)}.{facts.dtype}", shape_of(x)
    levels = op("Cast", [x], f"{name}.levels", BFLOAT16, shape, {"to": BFLOAT16.value})
    return op("Cast", [levels], name, FLOAT, shape, {"to": FLOAT.value})


def find(value: ir.Value | None) -> RoundedRows | None:
    back = produced_by(value, "Cast")
    there = None if back is None else produced_by(back.inputs[0], "Cast")
    x = None if there is None else there.inputs[0]
    if back is None or there is None or x is None or dtype_of(there.outputs[0]) != BFLOAT16 or dtype_of(x) != FLOAT:
        return None
    return RoundedRows(x, "bfloat16", there.outputs[0], None, back.outputs[0])
