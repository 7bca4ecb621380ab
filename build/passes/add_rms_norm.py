"""The Add of the residual stream and the RMSNorm of its sum become AddRMSNorm, which yields both."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.operators import DOMAIN
from inflight.build.passes.rewrite import fused, like, nodes_of, number, produced_by, replace
from inflight.build.values import shape_of


def fuse_add_rms_norm(graph: ir.Graph) -> None:
    for norm in nodes_of(graph, "RMSNorm", DOMAIN):
        add = produced_by(norm.inputs[0], "Add")
        if add is None or not _same_shape(add):
            continue
        outputs = [*add.outputs, *norm.outputs]
        attributes = {"epsilon": number(norm, "epsilon", 0.0)}
        node = fused("AddRMSNorm", [*add.inputs, norm.inputs[1]], [like(value) for value in outputs], attributes)
        graph.insert_before(add, node)
        replace(graph, outputs, node.outputs)


def _same_shape(add: ir.Node) -> bool:
    left, right = add.inputs
    return left is not None and right is not None and shape_of(left) == shape_of(right)
