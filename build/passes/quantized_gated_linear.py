"""Swish of one QuantizedLinear times another of the same rows becomes QuantizedGatedLinear.

A gate or an up projection with a bias, or with groups of another size, is left as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.passes.gated_linear import gated_products
from inflight.build.passes.rewrite import fused, integer, like, nodes_of, replace

_INPUTS = 4


def fuse_quantized_gated_linear(graph: ir.Graph) -> None:
    for product in nodes_of(graph, "Mul"):
        found = gated_products(product, "QuantizedLinear")
        if found is None:
            continue
        gate, up = found
        size = integer(gate, "group_size", 0)
        if gate.inputs[1] is not up.inputs[1] or integer(up, "group_size", 0) != size:
            continue
        if len(gate.inputs) != _INPUTS or len(up.inputs) != _INPUTS:
            continue
        inputs = [*gate.inputs, *up.inputs[2:]]
        attributes = {"activation": "silu", "group_size": size}
        node = fused("QuantizedGatedLinear", inputs, [like(product.outputs[0])], attributes)
        graph.insert_before(product, node)
        replace(graph, product.outputs, node.outputs)
