"""Swish, Gelu, Relu or the square of a Relu becomes Activation: the middle of an MLP without a gate."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import STANDARD, fused, like, number, produced_by, replace, text

_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


def fuse_activation(graph: ir.Graph) -> None:
    # Squares first: what they are of is an activation, too.
    for node in sorted(graph, key=lambda node: node.op_type != "Mul"):
        relu = _squared_relu(node)
        activation = activation_of(node) if relu is None else "relu2"
        if node.graph is None or activation is None or len(shape_of(node.outputs[0])) != 3:
            continue
        rows = (node if relu is None else relu).inputs[0]
        result = fused("Activation", [rows], [like(node.outputs[0])], {"activation": activation})
        graph.insert_before(node, result)
        replace(graph, node.outputs, result.outputs)


def _squared_relu(node: ir.Node) -> ir.Node | None:
    """The Relu of which `node` is the square."""
    if node.op_type != "Mul" or node.domain != STANDARD or node.inputs[0] is not node.inputs[1]:
        return None
    return produced_by(node.inputs[0], "Relu")


def activation_of(node: ir.Node | None) -> str | None:
    """The name that the fused operators have for what `node` computes; None when it is no activation."""
    if node is None or node.domain != STANDARD:
        return None
    if node.op_type == "Swish" and number(node, "alpha", 1.0) == 1.0:
        return "silu"
    if node.op_type == "Gelu":
        return _GELUS.get(text(node, "approximate", "none"))
    return "relu" if node.op_type == "Relu" else None
