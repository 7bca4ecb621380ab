"""Move the gathering of logit rows ahead of the vocabulary projection and the last norm, which then see R rows only.

It stops at the last AddRMSNorm, whose residual and delta it gathers.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.operators import DOMAIN
from inflight.build.passes.pack_tokens import LOGIT_ROWS
from inflight.build.passes.rewrite import fused, nodes_of, replace
from inflight.build.values import dtype_of, name_of, new_value, shape_of

# Operators that treat rows alike, and which of their inputs are rows.
_ROW_INPUTS = {"Linear": (0,), "RMSNorm": (0,), "AddRMSNorm": (0, 1)}


def gather_logit_rows(graph: ir.Graph) -> None:
    for gather in nodes_of(graph, "GatherRows", DOMAIN):
        _hoist(graph, gather)


def _hoist(graph: ir.Graph, gather: ir.Node) -> None:
    rows, wanted = gather.inputs
    node = None if rows is None else rows.producer()
    if rows is None or wanted is None or node is None or node.domain != DOMAIN or node.op_type not in _ROW_INPUTS:
        return
    if any(use.node is not gather for value in node.outputs for use in value.uses()):
        return
    name = name_of(gather.outputs[0])
    replace(graph, gather.outputs, [rows])
    rows.name = name
    node.name = name_of(node.outputs[0])
    for value in node.outputs:
        value.shape = ir.Shape((LOGIT_ROWS, *shape_of(value)[1:]))
    gathers = [_gather_input(graph, node, index, wanted) for index in _ROW_INPUTS[node.op_type]]
    if len(gathers) == 1:
        _hoist(graph, gathers[0])


def _gather_input(graph: ir.Graph, node: ir.Node, index: int, wanted: ir.Value) -> ir.Node:
    source = node.inputs[index]
    assert source is not None, f"{node.name} lacks input {index}"
    gathered = new_value(f"{name_of(source)}.logit_rows", dtype_of(source), (LOGIT_ROWS, *shape_of(source)[1:]))
    gather = fused("GatherRows", [source, wanted], [gathered])
    graph.insert_before(node, gather)
    node.replace_input_with(index, gathered)
    return gather
