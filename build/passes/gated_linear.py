"""Swish of one Linear times another Linear of the same rows becomes GatedLinear: both products share one reading of x.

A gate or an up projection with a bias is left as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.passes.rewrite import fused, like, nodes_of, number, only_consumer, produced_by, replace

_INPUTS = 2


def fuse_gated_linear(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        found = gated_products(product, "Linear")
        if found is None:
            continue
        gate, up = found
        if len(gate.inputs) != _INPUTS or len(up.inputs) != _INPUTS:
            continue
        inputs = [gate.inputs[0], gate.inputs[1], up.inputs[1]]
        node = fused("GatedLinear", inputs, [like(product.outputs[0])], {"activation": "silu"})
        graph.insert_before(product, node)
        replace(graph, product.outputs, node.outputs)


def gated_products(product: ir.Node, op_type: str) -> tuple[ir.Node, ir.Node] | None:
    """The two nodes `op_type` of the same rows, gate and up, of whose results `product` is Swish(gate) * up."""
    for activated, linear in (tuple(product.inputs), tuple(reversed(product.inputs))):
        swish = produced_by(activated, "Swish")
        if swish is None or number(swish, "alpha", 1.0) != 1.0:
            continue
        gate, up = produced_by(swish.inputs[0], op_type, DOMAIN), produced_by(linear, op_type, DOMAIN)
        if gate is None or up is None or gate.inputs[0] is not up.inputs[0]:
            continue
        if only_consumer(swish.outputs[0], "Mul") is not None and only_consumer(gate.outputs[0], "Swish") is not None:
            return gate, up
    return None
