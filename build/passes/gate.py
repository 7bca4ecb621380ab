"""An activation of one product times another, which no pass has made one operator, becomes Gate.

Such are the gate and the up projection of a checkpoint that rounds the rows of each by a scale of its own, and those of
which one alone has a bias.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.passes.activation import activation_of
from inflight.build.passes.rewrite import fused, like, nodes_of, only_consumer, produced_by, replace

_PRODUCTS = ("Linear", "QuantizedLinear")


def fuse_gate(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        for activated, up in (tuple(product.inputs), tuple(reversed(product.inputs))):
            node = None if activated is None else activated.producer()
            found = activation_of(node)
            if node is None or found is None or not _is_product(found.rows) or not _is_product(up):
                continue
            if only_consumer(node.outputs[0], "Mul") is None:
                continue
            gate = fused("Gate", [found.rows, up], [like(product.outputs[0])], {"activation": found.name})
            graph.insert_before(product, gate)
            replace(graph, product.outputs, gate.outputs)
            break


def _is_product(value: ir.Value | None) -> bool:
    return any(produced_by(value, op_type, DOMAIN) is not None for op_type in _PRODUCTS)
