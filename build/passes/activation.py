"""Swish, Gelu, Relu or the square of a Relu becomes Activation: the middle of an MLP without a gate."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import STANDARD, fused, like, number, produced_by, replace, text

_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


class Activated(NamedTuple):
    """What a node is the activation of, if it is one: `rows`, which `first` reads, alone or with the node itself."""

    name: str
    rows: ir.Value
    first: ir.Node


def fuse_activation(graph: ir.Graph) -> None:
    # Squares first: what they are of is an activation, too.
    for node in sorted(graph, key=lambda node: node.op_type != "Mul"):
        found = activation_of(node)
        if node.graph is None or found is None or len(shape_of(node.outputs[0])) != 3:
            continue
        result = fused("Activation", [found.rows], [like(node.outputs[0])], {"activation": found.name})
        graph.insert_before(node, result)
        replace(graph, node.outputs, result.outputs)


def activation_of(node: ir.Node | None) -> Activated | None:
    """What `node` computes, under the name that the fused operators have for it; None when it is no activation."""
    if node is None or node.domain != STANDARD or not node.inputs or node.inputs[0] is None:
        return None
    rows, name = node.inputs[0], None
    if node.op_type == "Swish" and number(node, "alpha", 1.0) == 1.0:
        name = "silu"
    elif node.op_type == "Gelu":
        name = _GELUS.get(text(node, "approximate", "none"))
    elif node.op_type == "Relu":
        name = "relu"
    elif node.op_type == "Mul" and rows is node.inputs[1]:
        relu = activation_of(produced_by(rows, "Relu"))
        return None if relu is None else relu._replace(name="relu2")
    return None if name is None else Activated(name, rows, node)
