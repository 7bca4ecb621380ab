"""Swish of one Linear times another Linear of the same rows becomes GatedLinear: both products share one reading of x.

A gate or an up projection with a bias is left as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.operators import DOMAIN
from inflight.build.passes.rewrite import fused, like, nodes_of, number, only_consumer, produced_by, replace


def fuse_gated_linear(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        for activated, linear in (tuple(product.inputs), tuple(reversed(product.inputs))):
            swish = produced_by(activated, "Swish")
            if swish is None or number(swish, "alpha", 1.0) != 1.0:
                continue
            gate, up = _projection(swish.inputs[0]), _projection(linear)
            if gate is None or up is None or gate.inputs[0] is not up.inputs[0]:
                continue
            if only_consumer(swish.outputs[0], "Mul") is None or only_consumer(gate.outputs[0], "Swish") is None:
                continue
            inputs = [gate.inputs[0], gate.inputs[1], up.inputs[1]]
            node = fused("GatedLinear", inputs, [like(product.outputs[0])], {"activation": "silu"})
            graph.insert_before(product, node)
            replace(graph, product.outputs, node.outputs)
            break


def _projection(value: ir.Value | None) -> ir.Node | None:
    linear = produced_by(value, "Linear", DOMAIN)
    return linear if linear is not None and len(linear.inputs) == 2 else None
