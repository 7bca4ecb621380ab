"""Gather of rows of a stored table, and the Cast to float32 after it, become EmbeddingLookup."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import fused, integer, like, nodes_of, only_consumer, replace


def fuse_embedding(graph: ir.Graph) -> None:
    for gather in nodes_of(graph, "Gather"):
        table, rows = gather.inputs
        if table is None or not table.is_initializer() or len(shape_of(table)) != 2 or integer(gather, "axis", 0) != 0:
            continue
        cast = only_consumer(gather.outputs[0], "Cast")
        result = gather.outputs[0] if cast is None else cast.outputs[0]
        if result.dtype != ir.DataType.FLOAT:
            continue
        node = fused("EmbeddingLookup", [rows, table], [like(result)])
        graph.insert_before(gather, node)
        replace(graph, [result], node.outputs)
