"""Swish, Gelu or Relu of rows becomes Activation: the middle of an MLP without a gate."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import STANDARD, fused, like, number, replace, text

_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


def fuse_activation(graph: ir.Graph) -> None:
    for node in list(graph):
        activation = activation_of(node)
        if activation is None or len(shape_of(node.outputs[0])) != 3:
            continue
        result = fused("Activation", [node.inputs[0]], [like(node.outputs[0])], {"activation": activation})
        graph.insert_before(node, result)
        replace(graph, node.outputs, result.outputs)


def activation_of(node: ir.Node | None) -> str | None:
    """The name that the fused operators have for what `node` computes; None when it is no activation."""
    if node is None or node.domain != STANDARD:
        return None
    if node.op_type == "Swish" and number(node, "alpha", 1.0) == 1.0:
        return "silu"
    if node.op_type == "Gelu":
        return _GELUS.get(text(node, "approximate", "none"))
    return "relu" if node.op_type == "Relu" else None
