"""Swish of one product times another that reads other rows becomes Gate.

Such are the gate and the up projection of a checkpoint that rounds the rows of each by a scale of its own; those that
read the same rows are one operator already.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.passes.rewrite import fused, like, nodes_of, number, only_consumer, produced_by, replace


def fuse_gate(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        for activated, up in (tuple(product.inputs), tuple(reversed(product.inputs))):
            swish = produced_by(activated, "Swish")
            if swish is None or up is None or not _is_product(swish.inputs[0]) or not _is_product(up):
                continue
            if number(swish, "alpha", 1.0) != 1.0 or only_consumer(swish.outputs[0], "Mul") is None:
                continue
            inputs = [swish.inputs[0], up]
            node = fused("Gate", inputs, [like(product.outputs[0])], {"activation": "silu"})
            graph.insert_before(product, node)
            replace(graph, product.outputs, node.outputs)
            break


def _is_product(value: ir.Value | None) -> bool:
    return produced_by(value, "QuantizedLinear", DOMAIN) is not None
