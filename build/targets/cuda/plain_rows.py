"""The types of rows that products with quantized weights read, where a GPU has better than the CPU's integers.

Where weights alone are quantized, a CPU rounds rows to 16-bit integers, since its products are of integers; a GPU
widens the weights to plain rows, of the type of the checkpoint. Rows of float8 in front of integer weights are
multiples of 2^-9 on a CPU, and float8 here.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of, onnx_dtype
from inflight.build.graph.quantized_rows import FLOAT8_INTEGERS
from inflight.build.graph.values import dtype_of, retype


def keep_rows_plain(graph: ir.Graph, dtype: ir.DataType) -> None:
    """Give rows their types, before memory is planned anew; plain ones have `dtype`."""
    held = {ir.DataType.INT16: dtype, FLOAT8_INTEGERS: ir.DataType.FLOAT8E4M3FN}
    for node in graph:
        if node.op_type in ("QuantizeRows", "RMSNormQuantize"):
            levels = node.outputs[0]
            retype(levels, held.get(dtype_of(levels), dtype_of(levels)))
        if node.op_type == "QuantizedExperts":
            inner = onnx_dtype(node.attributes["rows"].as_string())
            node.attributes["rows"] = ir.AttrString("rows", facts_of(held.get(inner, inner)).name)
