"""The Add of the residual stream to what a projection or a norm yields becomes its own.

It is that of Linear, QuantizedLinear, RMSNorm, Experts or QuantizedExperts. The sum is residual + (product + bias), as
before. An addition whose operand others read too is left as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN, OPERATORS
from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import fused, like, nodes_of, only_consumer, other_input, produced_by, replace

_ADDING = ("Linear", "QuantizedLinear", "RMSNorm", "Experts", "QuantizedExperts")


def add_residual(graph: ir.Graph) -> None:
    for add in nodes_of(graph, "Add"):
        product, residual = _operands(add)
        if product is None or residual is None:
            continue
        place = _place(product)
        inputs = [*product.inputs, *[None] * (place + 1 - len(product.inputs))]
        inputs[place] = residual
        outputs = [like(add.outputs[0]), *map(like, product.outputs[1:])]
        node = fused(product.op_type, inputs, outputs, product.attributes)
        graph.insert_before(add, node)
        replace(graph, add.outputs, node.outputs[:1])


def _operands(add: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The projection or norm that only `add` reads and that adds nothing yet, and what is added to it."""
    for value in add.inputs:
        other = None if value is None else other_input(add, value)
        if value is None or other in (None, value) or shape_of(value) != shape_of(other):
            continue
        product = next((node for op in _ADDING if (node := produced_by(value, op, DOMAIN)) is not None), None)
        if product is None or only_consumer(value, "Add") is not add:
            continue
        if len(product.inputs) <= _place(product) or product.inputs[_place(product)] is None:
            return product, other
    return None, None


def _place(product: ir.Node) -> int:
    """Of the residual among the inputs."""
    return OPERATORS[product.op_type].inputs.index("residual")
