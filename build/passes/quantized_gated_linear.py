"""An activation of one QuantizedLinear times another of the same rows becomes QuantizedGatedLinear.

Both may have a bias, and zero points. Where only one of them has, where their groups are of two sizes or their
codebooks two, or where a plain product reads the result in 16 bits, they are left as they are: a Gate rounds its rows,
this operator does not.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN, activation_type
from inflight.build.graph.values import dtype_of
from inflight.build.passes.gated_linear import gated_products
from inflight.build.passes.rewrite import fused, integer, like, nodes_of, replace

_BIAS, _ZERO, _CODEBOOK = 4, 5, 7


def fuse_quantized_gated_linear(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        found = gated_products(product, "QuantizedLinear")
        if found is None or _read_in_16_bits(product.outputs[0]):
            continue
        gate, up = found.gate, found.up
        size = integer(gate, "group_size", 0)
        if gate.inputs[1] is not up.inputs[1] or integer(up, "group_size", 0) != size:
            continue
        biases, zeros = (_both(gate, up, index) for index in (_BIAS, _ZERO))
        codebook, other = _both(gate, up, _CODEBOOK)
        if biases.count(None) == 1 or zeros.count(None) == 1 or codebook is not other:
            continue
        inputs = [*gate.inputs[:_BIAS], *up.inputs[2:_BIAS], *biases, *zeros, codebook]
        while inputs[-1] is None:
            inputs.pop()
        attributes = {"activation": found.activation, "group_size": size}
        node = fused("QuantizedGatedLinear", inputs, [like(product.outputs[0])], attributes)
        graph.insert_before(product, node)
        replace(graph, product.outputs, node.outputs)


def _read_in_16_bits(rows: ir.Value) -> bool:
    plain = (user for user in rows.consumers() if user.domain == DOMAIN and user.op_type == "Linear")
    weights = (weight for user in plain if (weight := user.inputs[1]) is not None)
    return any(activation_type(dtype_of(weight)) != ir.DataType.FLOAT for weight in weights)


def _both(gate: ir.Node, up: ir.Node, index: int) -> list[ir.Value | None]:
    """An input of the two that they may lack."""
    return [node.inputs[index] if index < len(node.inputs) else None for node in (gate, up)]
