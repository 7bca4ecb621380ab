"""Gather of rows of a stored table, the Cast to float32 and a scale after it become EmbeddingLookup."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import constant_operand, fused, integer, like, nodes_of, only_consumer, replace


def fuse_embedding(graph: ir.Graph) -> None:
    for gather in nodes_of(graph, "Gather"):
        table, rows = gather.inputs
        if table is None or not table.is_initializer() or len(shape_of(table)) != 2 or integer(gather, "axis", 0) != 0:
            continue
        cast = only_consumer(gather.outputs[0], "Cast")
        result = gather.outputs[0] if cast is None else cast.outputs[0]
        if result.dtype != ir.DataType.FLOAT:
            continue
        result, scale = _scaled(result)
        node = fused("EmbeddingLookup", [rows, table], [like(result)], {"scale": scale})
        graph.insert_before(gather, node)
        replace(graph, [result], node.outputs)


def _scaled(rows: ir.Value) -> tuple[ir.Value, float]:
    """The product of `rows` with a constant of one element, and that; `rows` and 1 when nothing else reads them so."""
    product = only_consumer(rows, "Mul")
    found = None if product is None else constant_operand(product)
    return (rows, 1.0) if product is None or found is None else (product.outputs[0], found[1])
