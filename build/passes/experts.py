"""The function of a mixture of experts becomes Experts, which reads the stacks in their stored type; a product's rows
times the logistic function of one number each become GateWholeRows.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.expert_scratch import scratch_row_bytes
from inflight.build.graph.operators import activation_type
from inflight.build.graph.values import dtype_of, name_of, new_value, shape_of
from inflight.build.network.experts.layer import DOMAIN
from inflight.build.passes.rewrite import fused, integer, like, nodes_of, only_consumer, other_input, replace, stored


def fuse_experts(graph: ir.Graph) -> None:
    for call in [node for node in graph if node.domain == DOMAIN]:
        x, logits, *stacks = call.inputs
        weights = [weight for stack in stacks if (weight := stored(stack)) is not None]
        if len(weights) != len(stacks):
            continue
        y = call.outputs[0]
        width = _scratch_width(integer(call, "top_k", 0), weights[1])
        scratch = new_value(f"{name_of(y)}.scratch", ir.DataType.UINT8, (*shape_of(y)[:-1], width))
        node = fused("Experts", [x, *weights, logits], [like(y), scratch], call.attributes)
        graph.insert_before(call, node)
        replace(graph, call.outputs, node.outputs[:1])
    for sigmoid in nodes_of(graph, "Sigmoid"):
        product = only_consumer(sigmoid.outputs[0], "Mul")
        rows = None if product is None else other_input(product, sigmoid.outputs[0])
        if product is None or rows is None or shape_of(sigmoid.outputs[0]) != (*shape_of(rows)[:-1], 1):
            continue
        node = fused("GateWholeRows", [rows, sigmoid.inputs[0]], [like(product.outputs[0])])
        graph.insert_before(product, node)
        replace(graph, product.outputs, node.outputs)


def _scratch_width(top_k: int, proj: ir.Value) -> int:
    """Bytes for each row, in the type in which rows meet the stack proj [count, hidden, size]."""
    count, hidden, size = (int(dim) for dim in shape_of(proj))
    return scratch_row_bytes(count, top_k, hidden, size, int(activation_type(dtype_of(proj)).itemsize))
