"""MatMul with a transposed stored weight, and the Add of a stored bias after it, become Linear.

The weight keeps the type and layout (out, in) of the checkpoint: its Cast and its Transpose disappear.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import (
    fused,
    is_permutation,
    like,
    nodes_of,
    only_consumer,
    produced_by,
    replace,
    stored,
)


def fuse_linear(graph: ir.Graph) -> None:
    for matmul in nodes_of(graph, "MatMul"):
        transpose = produced_by(matmul.inputs[1], "Transpose")
        weight = None if transpose is None else stored(transpose.inputs[0])
        if transpose is None or weight is None or not is_permutation(transpose, (1, 0)):
            continue
        product = matmul.outputs[0]
        biased, bias = added_bias(product)
        result = product if biased is None else biased
        inputs = [matmul.inputs[0], weight] if bias is None else [matmul.inputs[0], weight, bias]
        node = fused("Linear", inputs, [like(result)])
        graph.insert_before(matmul, node)
        replace(graph, [result], node.outputs)


def added_bias(product: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """The sum of `product` and a stored vector, and that vector."""
    add = only_consumer(product, "Add")
    if add is None:
        return None, None
    for other in add.inputs:
        vector = None if other is product else stored(other)
        if vector is not None and len(shape_of(vector)) == 1:
            return add.outputs[0], vector
    return None, None
