"""Rows rounded by one stored scale and back: QuantizeLinear and DequantizeLinear, to int8 or to 8-bit floats (E4M3)."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.passes.rewrite import produced_by
from inflight.build.quantization.stored_matrix import RoundedRows, RowFacts
from inflight.convert.quantization.schemes import RowDtype

FLOAT = ir.DataType.FLOAT
_DTYPES: Mapping[ir.DataType, RowDtype] = {ir.DataType.FLOAT8E4M3FN: "float8_e4m3fn", ir.DataType.INT8: "int8"}


def write(builder: GraphBuilder, x: ir.Value, facts: RowFacts) -> ir.Value:
    """x float32 [batch, step, K] as x / scale [], cut to the range of its type, rounded to it, times the scale."""
    assert facts.scale is not None, f"{facts.product} has no scale of its rows"
    dtype = onnx_dtype(facts.dtype)
    inputs, name = [x, facts.scale], f"{facts.product}.{'float8' if facts.dtype == 'float8_e4m3fn' else facts.dtype}"
    levels = builder.op("QuantizeLinear", inputs, name, dtype, shape_of(x), {"output_dtype": dtype.value})
    return builder.op("DequantizeLinear", [levels, facts.scale], f"{facts.product}.rows", FLOAT, shape_of(x))


def find(value: ir.Value | None) -> RoundedRows | None:
    back = produced_by(value, "DequantizeLinear")
    there = None if back is None else produced_by(back.inputs[0], "QuantizeLinear")
    dtype = None if there is None else _DTYPES.get(dtype_of(there.outputs[0]))
    if back is None or there is None or dtype is None:
        return None
    x, scale = there.inputs[:2]
    if x is None or scale is None or back.inputs[1] is not scale or len(there.inputs) != 2 or len(back.inputs) != 2:
        return None
    if not scale.is_initializer() or shape_of(scale) != ():
        return None
    return RoundedRows(x, dtype, there.outputs[0], scale, back.outputs[0], stored=scale)
