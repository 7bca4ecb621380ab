"""An activation of one Linear times another Linear of the same rows becomes GatedLinear: both share one reading of x.

Both may have a bias; where only one of them has, they are left as they are. So they are where somebody reads the result
who is no product of the same type of weights: GatedLinear makes rows of the type in which it reads its own.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN, PRODUCTS, activation_type
from inflight.build.graph.values import dtype_of, name_of
from inflight.build.passes.activation import activation_of
from inflight.build.passes.rewrite import fused, like, nodes_of, only_consumer, produced_by, replace


class GatedProducts(NamedTuple):
    """Two projections `gate` and `up` of the same rows, multiplied as activation(gate) * up."""

    gate: ir.Node
    up: ir.Node
    activation: str

    def biases(self, index: int) -> list[ir.Value | None]:
        """The biases, if the projections have them as their input `index`."""
        return [node.inputs[index] for node in (self.gate, self.up) if len(node.inputs) > index]


def fuse_gated_linear(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        found = gated_products(product, "Linear")
        if found is None or not _read_as_made(product.outputs[0], found.gate.inputs[1]):
            continue
        inputs = [*found.gate.inputs[:2], found.up.inputs[1], *found.biases(2)]
        node = fused("GatedLinear", inputs, [like(product.outputs[0])], {"activation": found.activation})
        graph.insert_before(product, node)
        replace(graph, product.outputs, node.outputs)


def _read_as_made(rows: ir.Value, weight: ir.Value | None) -> bool:
    """Whether all who read `rows` take them as a product with this weight takes its own."""
    assert weight is not None, f"what makes {name_of(rows)} has no weight"
    made = activation_type(dtype_of(weight))
    return made == ir.DataType.FLOAT or all(_reads(user, rows) == made for user in rows.consumers())


def _reads(user: ir.Node, rows: ir.Value) -> ir.DataType:
    weight = user.inputs[1] if user.domain == DOMAIN and user.op_type in PRODUCTS else None
    return dtype_of(rows) if weight is None else activation_type(dtype_of(weight))


def gated_products(product: ir.Node, op_type: str) -> GatedProducts | None:
    """What `product` multiplies, if its operands are results of two nodes `op_type`, one of them activated."""
    for activated, linear in (tuple(product.inputs), tuple(reversed(product.inputs))):
        node = None if activated is None else activated.producer()
        found = activation_of(node)
        if node is None or found is None or only_consumer(node.outputs[0], "Mul") is None:
            continue
        gate, up = produced_by(found.rows, op_type, DOMAIN), produced_by(linear, op_type, DOMAIN)
        if gate is None or up is None or gate.inputs[0] is not up.inputs[0] or len(gate.inputs) != len(up.inputs):
            continue
        if only_consumer(gate.outputs[0], found.first.op_type) is not None:
            return GatedProducts(gate, up, found.name)
    return None
