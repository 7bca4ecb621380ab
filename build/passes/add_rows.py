"""The Add of two results that no projection or norm has taken up becomes AddRows, with the Scale of one of them."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import fused, like, nodes_of, number, only_consumer, produced_by, replace


def fuse_add_rows(graph: ir.Graph) -> None:
    for add in nodes_of(graph, "Add"):
        left, right = add.inputs
        if left is None or right is None or shape_of(left) != shape_of(right) or len(shape_of(left)) != 3:
            continue
        residual, x = (right, left) if _scale(left, add) is not None else (left, right)
        scale = _scale(x, add)
        factor = 1.0 if scale is None else number(scale, "factor", 1.0)
        x = x if scale is None else scale.inputs[0]
        node = fused("AddRows", [x, residual], [like(add.outputs[0])], {"factor": factor})
        graph.insert_before(add, node)
        replace(graph, add.outputs, node.outputs)


def _scale(value: ir.Value, add: ir.Node) -> ir.Node | None:
    """The Scale that makes `value`, if only `add` reads it."""
    scale = produced_by(value, "Scale", DOMAIN)
    return scale if only_consumer(value, "Add") is add else None
