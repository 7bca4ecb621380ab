"""cap * tanh(rows / cap) becomes SoftCap (Gemma 2 Team, 2024, section 2)."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import array_of, shape_of
from inflight.build.passes.rewrite import constant_operand, fused, like, nodes_of, only_consumer, produced_by, replace


def fuse_soft_cap(graph: ir.Graph) -> None:
    for tanh in nodes_of(graph, "Tanh"):
        division, product = produced_by(tanh.inputs[0], "Div"), only_consumer(tanh.outputs[0], "Mul")
        found = None if product is None else constant_operand(product)
        divisor = None if division is None else array_of(division.inputs[1])
        if product is None or division is None or found is None or divisor is None or divisor.size != 1:
            continue
        rows, cap = division.inputs[0], found[1]
        if float(divisor.reshape(())) != cap or rows is None or len(shape_of(rows)) != 3:
            continue
        node = fused("SoftCap", [rows], [like(product.outputs[0])], {"cap": cap})
        graph.insert_before(product, node)
        replace(graph, product.outputs, node.outputs)
