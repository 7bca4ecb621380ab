"""Rows of 16 bits where a CPU has float32: tensor cores take float16 as it is, and queries of 16 bits.

A CPU widens float16, and attends in float32 where the product behind is quantized.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import dtype_of, retype
from inflight.build.passes.activation_types import set_activation_types
from inflight.build.passes.round_rows import round_rows

_SHORT = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


def shorten_rows(graph: ir.Graph, dtype: ir.DataType) -> None:
    """Give rows their types, before memory is planned anew; `dtype` is that of the checkpoint."""
    round_rows(graph, _read_as)
    set_activation_types(graph, _read_as)
    if dtype not in _SHORT:
        return
    for node in graph:
        if node.op_type == "PagedAttention" and _is_quantized(node.outputs[0]):
            for rows in (node.outputs[0], *_gathered(node.outputs[0])):
                retype(rows, dtype)


def _read_as(weight: ir.DataType) -> ir.DataType:
    return weight if weight in _SHORT else ir.DataType.FLOAT


def _is_quantized(rows: ir.Value) -> bool:
    """Whether nothing but QuantizeRows reads these float32 rows, or those gathered of them."""
    readers = [user for value in (rows, *_gathered(rows)) for user in value.consumers()]
    kinds = {user.op_type for user in readers} - {"GatherRows"}
    return dtype_of(rows) == ir.DataType.FLOAT and kinds == {"QuantizeRows"}


def _gathered(rows: ir.Value) -> list[ir.Value]:
    return [user.outputs[0] for user in rows.consumers() if user.op_type == "GatherRows"]
