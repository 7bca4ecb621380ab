"""Move the gathering of logit rows ahead of whatever treats rows alike, so that the end of the model sees R rows only.

It stops at the last attention, and at the residual stream before it: the last layer's output projection, norm and MLP,
the last norm and the vocabulary projection run on the rows whose logits are wanted. Rows are computed each on their
own, so none of their bits change.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import dtype_of, name_of, new_value, shape_of
from inflight.build.passes.pack_tokens import LOGIT_ROWS
from inflight.build.passes.rewrite import fused, nodes_of, replace

# Operators that treat rows alike, and which of their inputs are rows; the last may be missing.
_ROW_INPUTS = {
    "Linear": (0, 3),
    "GatedLinear": (0,),
    "HeadLinear": (0,),
    "RMSNorm": (0, 2),
    "LayerNorm": (0,),
    "Activation": (0,),
    "Xielu": (0,),
    "RoundRows": (0,),
    "Scale": (0,),
    "SoftCap": (0,),
    "AddRows": (0, 1),
    "QuantizeRows": (0,),
    "RMSNormQuantize": (0,),
    "QuantizedLinear": (0, 1, 6),
    "QuantizedGatedLinear": (0, 1),
    "Gate": (0, 1),
    "Experts": (0, 3, 4),
    "QuantizedExperts": (0, 1, 6, 7),
    "GateWholeRows": (0, 1),
}
# What makes levels and their scales, which are not gathered: the rows in front of it are, and are rounded once more.
_QUANTIZING = ("QuantizeRows", "RMSNormQuantize")


def gather_logit_rows(graph: ir.Graph) -> None:
    pending = nodes_of(graph, "GatherRows", DOMAIN)
    while pending:
        pending += _hoist(graph, pending.pop())


def _hoist(graph: ir.Graph, gather: ir.Node) -> list[ir.Node]:
    """Move a gathering ahead of the node that makes its rows; the gatherings of that node's inputs, if it moved."""
    rows, wanted = gather.inputs
    node = None if rows is None or gather.graph is None else rows.producer()
    if wanted is None or node is None or node.domain != DOMAIN or node.op_type not in _ROW_INPUTS:
        return []
    if not all(_is_gather(user, wanted) for value in node.outputs for user in value.consumers()):
        if node.op_type not in _QUANTIZING:
            return []
        node = _copy_for(graph, node, wanted)
    for value in node.outputs:
        for user in list(value.consumers()):
            name = name_of(user.outputs[0])
            replace(graph, user.outputs, [value])
            value.name = name
        value.shape = ir.Shape((LOGIT_ROWS, *shape_of(value)[1:]))
    node.name = name_of(node.outputs[0])
    there = [index for index, value in enumerate(node.inputs) if value is not None]
    given = [index for index in _ROW_INPUTS[node.op_type] if index in there]
    return [_gather_input(graph, node, index, wanted) for index in given]


def _copy_for(graph: ir.Graph, node: ir.Node, wanted: ir.Value) -> ir.Node:
    """A second `node`, which the gatherings by `wanted` read in place of it."""
    outputs = [new_value(f"{name_of(value)}.wanted", dtype_of(value), shape_of(value)) for value in node.outputs]
    copy = fused(node.op_type, node.inputs, outputs, dict(node.attributes))
    graph.insert_after(node, copy)
    for value, own in zip(node.outputs, outputs, strict=True):
        for user in [each for each in value.consumers() if _is_gather(each, wanted)]:
            user.replace_input_with(0, own)
    return copy


def _is_gather(node: ir.Node, wanted: ir.Value) -> bool:
    return node.domain == DOMAIN and node.op_type == "GatherRows" and node.inputs[1] is wanted


def _gather_input(graph: ir.Graph, node: ir.Node, index: int, wanted: ir.Value) -> ir.Node:
    source = node.inputs[index]
    assert source is not None, f"{node.name} lacks input {index}"
    gather = next((user for user in source.consumers() if _is_gather(user, wanted)), None)
    if gather is None:
        gathered = new_value(f"{name_of(source)}.logit_rows", dtype_of(source), (LOGIT_ROWS, *shape_of(source)[1:]))
        gather = fused("GatherRows", [source, wanted], [gathered])
    else:
        graph.remove(gather)
    graph.insert_before(node, gather)
    node.replace_input_with(index, gather.outputs[0])
    return gather
