"""Rows that a product reads in a shorter type than they are made in get an operator of their own that rounds them.

Mostly whoever makes the rows rounds them (activation_types). The residual stream itself is float32.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN, OPERATORS, PRODUCTS, ROUNDED_OUTPUTS, ReadAs, activation_type
from inflight.build.graph.values import dtype_of, name_of, new_value, shape_of
from inflight.build.passes.rewrite import fused


def round_rows(graph: ir.Graph, read_as: ReadAs = activation_type) -> None:
    """`read_as`: the type in which a product reads its rows, by that of its weights."""
    rounded: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.domain != DOMAIN or node.op_type not in PRODUCTS or node.inputs[1] is None:
            continue
        rows, wanted = node.inputs[0], read_as(dtype_of(node.inputs[1]))
        if rows is None or wanted == dtype_of(rows) or _rounds(rows):
            continue
        if rows not in rounded:
            rounded[rows] = new_value(f"{name_of(rows)}.rounded", dtype_of(rows), shape_of(rows))
            graph.insert_before(node, fused("RoundRows", [rows], [rounded[rows]]))
        node.replace_input_with(0, rounded[rows])


def _rounds(rows: ir.Value) -> bool:
    """True where the operator that makes them can make them in another type."""
    node = rows.producer()
    while node is not None and node.op_type == "GatherRows":
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.domain != DOMAIN or node.op_type not in ROUNDED_OUTPUTS:
        return False
    return not (node.op_type == "RMSNorm" and len(node.inputs) == len(OPERATORS["RMSNorm"].inputs))
