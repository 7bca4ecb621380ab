"""Give the rows that a product reads the type in which it reads them: bfloat16 for bfloat16 weights, else float32
(on targets that say no other).

Rounding happens once, where the rows are made; GatherRows hands on what it gets. Rows that products of different types
read stay float32, and RoundRows makes short ones of them for those that want them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN, OPERATORS, PRODUCTS, ROUNDED_OUTPUTS, ReadAs, activation_type
from inflight.build.graph.values import dtype_of, name_of, new_value, retype, shape_of
from inflight.build.passes.rewrite import fused


def set_activation_types(graph: ir.Graph, read_as: ReadAs = activation_type) -> None:
    """`read_as`: the type in which a product reads its rows, by that of its weights."""
    for node in graph:
        if node.domain != DOMAIN or node.op_type not in ROUNDED_OUTPUTS or _adds(node):
            continue
        rows = node.outputs[ROUNDED_OUTPUTS[node.op_type]]
        copies = [rows, *_gathered(rows)]
        readers = [(user, value) for value in copies for user in value.consumers() if user.op_type != "GatherRows"]
        wanted = {_reads_as(user, value, read_as) for user, value in readers}
        if len(wanted) == 1:
            dtype = wanted.pop()
            for value in copies:
                retype(value, dtype)
        else:
            for value in copies:
                users = [(user, _reads_as(user, value, read_as)) for user, read in readers if read is value]
                _round_for(graph, value, [(user, dtype) for user, dtype in users if dtype != ir.DataType.FLOAT])


def _round_for(graph: ir.Graph, rows: ir.Value, users: Sequence[tuple[ir.Node, ir.DataType]]) -> None:
    """Let `users` read copies of float32 rows, of their type."""
    producer = rows.producer()
    if not users or producer is None:
        return
    (dtype,) = {dtype for _, dtype in users}
    copy = new_value(f"{name_of(rows)}.rounded", dtype, shape_of(rows))
    graph.insert_after(producer, fused("RoundRows", [rows], [copy]))
    for user, _ in users:
        user.replace_input_with(0, copy)


def _adds(node: ir.Node) -> bool:
    """A norm that adds to the residual stream, which is float32 whoever reads it."""
    return node.op_type == "RMSNorm" and len(node.inputs) == len(OPERATORS["RMSNorm"].inputs)


def _gathered(rows: ir.Value) -> Iterator[ir.Value]:
    """What GatherRows makes of `rows`."""
    for user in rows.consumers():
        if user.domain == DOMAIN and user.op_type == "GatherRows":
            yield user.outputs[0]


def _reads_as(node: ir.Node, rows: ir.Value, read_as: ReadAs) -> ir.DataType:
    if node.domain == DOMAIN and node.op_type in PRODUCTS and node.inputs[0] is rows and node.inputs[1] is not None:
        return read_as(dtype_of(node.inputs[1]))
    return dtype_of(rows)
