"""Finds where to gather the logit rows: as early as possible, where only the logits read the rows."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.targets.tensorrt.lowering.layout import has_rows

# Each row of their results needs that row of their operands alone.
_ROW_OPERATORS = frozenset(
    {"Abs", "Add", "Cast", "Clip", "DequantizeLinear", "Div", "MatMul", "Max", "Mul", "QuantizeLinear"}
    | {"RMSNormalization", "Reciprocal", "ReduceMax", "Round", "Swish"}
)


def first_of_logits(graph: ir.Graph) -> ir.Value:
    """The earliest value through which all rows of the logits go, and that nothing else reads.

    Once its rows are gathered, whatever follows it is computed for the logit rows alone: the vocabulary projection, the
    last norm, and the last feed-forward block.
    """
    order = {node: index for index, node in enumerate(graph)}
    found = graph.outputs[0]
    frontier, inside = {found}, set[ir.Node]()
    while True:
        node = max((value.producer() for value in frontier), key=lambda node: -1 if node is None else order[node])
        if node is None or node.domain or node.op_type not in _ROW_OPERATORS:
            return found
        inside.add(node)
        frontier -= set(node.outputs)
        frontier |= {value for value in node.inputs if value is not None and has_rows(shape_of(value))}
        if len(frontier) == 1:
            (value,) = frontier
            if not value.is_graph_output() and all(use.node in inside for use in value.uses()):
                found = value
