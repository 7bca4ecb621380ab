"""Rows whose values get a stored order before they are rounded: a Gather along their last axis.

With GPTQ's desc_act inputs that share a scale are no neighbours; columns lie in an order in which they are.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import integer, produced_by

FLOAT, INT32 = ir.DataType.FLOAT, ir.DataType.INT32


def write(builder: GraphBuilder, x: ir.Value, order: ir.Value, product: str) -> ir.Value:
    """x float32 [batch, step, K], of each row the values order int32 [K], ahead of the product of this name."""
    return builder.op("Gather", [x, order], f"{product}.ordered_rows", FLOAT, shape_of(x), {"axis": -1})


def find(x: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The rows behind `x` and the order [K], if `x` is the first in the second."""
    gather = produced_by(x, "Gather")
    rows, order = (None, None) if gather is None else gather.inputs
    if gather is None or rows is None or order is None or integer(gather, "axis", 0) != -1:
        return None
    fits = order.is_initializer() and order.dtype == INT32 and shape_of(order) == shape_of(rows)[-1:]
    return (rows, order) if fits else None
