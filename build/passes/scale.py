"""Rows times a constant of one element become Scale: of a residual branch, or of the logits."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import constant_operand, fused, like, nodes_of, replace


def fuse_scale(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        found = constant_operand(product)
        if found is None or len(shape_of(found[0])) != 3:
            continue
        rows, factor = found
        node = fused("Scale", [rows], [like(product.outputs[0])], {"factor": factor})
        graph.insert_before(product, node)
        replace(graph, product.outputs, node.outputs)
