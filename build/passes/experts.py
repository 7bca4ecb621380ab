"""The function of a mixture of experts becomes Experts, which reads the stacks in their stored type, or, where rows and
stacks are quantized, QuantizedExperts; a product's rows times the logistic function of one number each become
GateWholeRows.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.expert_scratch import ExpertRows, scratch_row_bytes
from inflight.build.graph.operators import activation_type
from inflight.build.graph.values import dtype_of, name_of, new_value, shape_of
from inflight.build.network.experts.layer import DOMAIN
from inflight.build.passes.quantized_linear import adopt, quantized_rows
from inflight.build.passes.rewrite import (
    fused,
    integer,
    like,
    nodes_of,
    only_consumer,
    other_input,
    replace,
    stored,
    text,
)
from inflight.build.quantization.forms import find_stack

# Inputs: rows, logits, two stacks, and their biases.
_WITH_BIASES = 6
# What the operators have of the function's attributes.
_KEPT = ("top_k", "routing", "epsilon", "scale", "activation", "groups", "top_groups")


def fuse_experts(graph: ir.Graph) -> None:
    for call in [node for node in graph if node.domain == DOMAIN]:
        node = _plain(call) or _quantized(graph, call)
        if node is not None:
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


def _plain(call: ir.Node) -> ir.Node | None:
    x, logits, *stacks = call.inputs[:4]
    weights = [weight for stack in stacks if (weight := stored(stack)) is not None]
    if len(weights) != len(stacks):
        return None
    act = activation_type(dtype_of(weights[1]))
    attributes = {name: call.attributes[name].value for name in _KEPT}
    inputs = [x, *weights, logits, None, *_biases(call), _choice_bias(call)]
    while inputs[-1] is None:
        inputs.pop()
    return fused("Experts", inputs, _outputs(call, ExpertRows(act, act)), attributes)


def _quantized(graph: ir.Graph, call: ir.Node) -> ir.Node | None:
    x, logits, *stacks = call.inputs[:4]
    found = quantized_rows(x)
    fc, proj = (find_stack(stack) for stack in stacks)
    if found is None or fc is None or proj is None or logits is None:
        return None
    rows = _own_rows(graph, found, fc.group_size)
    inner = text(call, "rows", "")
    types = ExpertRows(dtype_of(rows[0]), onnx_dtype(inner), quantized=True)
    inputs = [*rows, fc.weight, fc.scale, proj.weight, proj.scale, logits, None]
    inputs += [*_biases(call), fc.zero, proj.zero, fc.codebook, proj.codebook, None, None, _choice_bias(call)]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {name: call.attributes[name].value for name in _KEPT}
    sizes = {"group_size": fc.group_size, "inner_group_size": proj.group_size, "rows": inner}
    attributes |= {**sizes, "experts": int(shape_of(logits)[-1])}
    node = fused("QuantizedExperts", inputs, _outputs(call, types), attributes)
    for matrix in (fc, proj):
        adopt(graph, matrix)
    return node


def _biases(call: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Of both stacks, in their stored type."""
    fc, proj = call.inputs[4:6] if len(call.inputs) >= _WITH_BIASES else (None, None)
    return stored(fc), stored(proj)


def _choice_bias(call: ir.Node) -> ir.Value | None:
    """It comes last, behind those of the stacks, if there are some."""
    return stored(call.inputs[-1]) if len(call.inputs) % 2 else None


def _own_rows(graph: ir.Graph, rows: ir.Node, group_size: int) -> Sequence[ir.Value]:
    """Levels and scales of the rows; rounded a second time where products with other groups read the first ones."""
    users = {integer(user, "group_size", group_size) for user in rows.outputs[0].consumers()}
    if users <= {group_size}:
        return list(rows.outputs)
    outputs = [new_value(f"{name_of(each)}.experts", dtype_of(each), shape_of(each)) for each in rows.outputs]
    again = fused("QuantizeRows", list(rows.inputs), outputs, rows.attributes)
    graph.insert_after(rows, again)
    return outputs


def _outputs(call: ir.Node, rows: ExpertRows) -> list[ir.Value]:
    """The sum of the experts, and scratch memory."""
    y, logits, (_, hidden, size) = call.outputs[0], call.inputs[1], (int(dim) for dim in shape_of(call.inputs[3]))
    assert logits is not None, "a router gives logits"
    width = scratch_row_bytes(int(shape_of(logits)[-1]), integer(call, "top_k", 0), hidden, size, rows)
    return [like(y), new_value(f"{name_of(y)}.scratch", ir.DataType.UINT8, (*shape_of(y)[:-1], width))]
