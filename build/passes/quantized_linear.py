"""MatMul of dequantized rows with a dequantized weight, and the Add of a bias after it, become QuantizedLinear.

A product whose rows or whose weight are plain is left to the other passes.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import name_of
from inflight.build.passes.linear import added_bias
from inflight.build.passes.rewrite import fused, like, nodes_of, produced_by, replace
from inflight.build.quantization.forms import find_matrix
from inflight.build.quantization.stored_matrix import QuantizedMatrix


def fuse_quantized_linear(graph: ir.Graph) -> None:
    for matmul in nodes_of(graph, "MatMul"):
        rows, matrix = quantized_rows(matmul.inputs[0]), find_matrix(matmul.inputs[1])
        if rows is None or matrix is None:
            continue
        product = matmul.outputs[0]
        biased, bias = added_bias(product)
        result = product if biased is None else biased
        inputs = [*rows.outputs, matrix.weight, matrix.scale, bias, matrix.zero, None, matrix.codebook]
        while inputs[-1] is None:
            inputs.pop()
        node = fused("QuantizedLinear", inputs, [like(result)], {"group_size": matrix.group_size})
        graph.insert_before(matmul, node)
        replace(graph, [result], node.outputs)
        adopt(graph, matrix)


def quantized_rows(value: ir.Value | None) -> ir.Node | None:
    """The QuantizeRows whose levels, times their scale, are `value`."""
    back = produced_by(value, "DequantizeLinear")
    column = None if back is None else produced_by(back.inputs[1], "Unsqueeze")
    rows = None if back is None else produced_by(back.inputs[0], "QuantizeRows", DOMAIN)
    if rows is None or column is None:
        return None
    return rows if column.inputs[0] is rows.outputs[1] else None


def adopt(graph: ir.Graph, matrix: QuantizedMatrix) -> None:
    """Let the graph own the matrix, in place of the views of it that the standard network had."""
    for value in (matrix.weight, matrix.scale):  # zero points are the network's own
        name = name_of(value)
        if graph.initializers.get(name) is not value:
            graph.initializers.pop(name)
            graph.register_initializer(value)
