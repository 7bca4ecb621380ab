"""Rows between the two products of an expert, rounded as build/quantization/rows writes it for other products."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.function_body import FunctionBody
from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.build.network.layers import FLOAT
from inflight.build.quantization.rows.row_scales import LEAST_MAGNITUDE
from inflight.convert.quantization.schemes import RowDtype


def rounded(body: FunctionBody, x: ir.Value, rows: RowDtype) -> ir.Value:
    """Levels times the scale of each row, float32; those of bfloat16 have none."""
    if rows == "bfloat16":
        return _there_and_back(body, x, rows)
    greatest, least = (body.constant(sign * GREATEST_LEVEL[rows], np.float32) for sign in (1, -1))
    largest = body.op("ReduceMax", [body.op("Abs", [x]), body.constant([-1])], {"keepdims": 1})
    scale = body.op("Div", [body.op("Max", [largest, body.constant(LEAST_MAGNITUDE, np.float32)]), greatest])
    if rows == "float8_e4m3fn":
        return body.op("Mul", [_there_and_back(body, body.op("Div", [x, scale]), rows), scale])
    scaled = body.op("Mul", [x, body.op("Reciprocal", [scale])])
    return body.op("Mul", [body.op("Clip", [body.op("Round", [scaled]), least, greatest]), scale])


def _there_and_back(body: FunctionBody, x: ir.Value, rows: RowDtype) -> ir.Value:
    """Cast to the type, cut to its range, and to float32 again."""
    saturates = {"saturate": 1} if rows == "float8_e4m3fn" else {}
    levels = body.op("Cast", [x], {"to": onnx_dtype(rows).value, **saturates})
    return body.op("Cast", [levels], {"to": FLOAT.value})
