"""Helpers of passes: matching along producers and consumers, and replacing matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import array_of, dtype_of, name_of, new_value, shape_of

STANDARD = ""


def nodes_of(graph: ir.Graph, op_type: str, domain: str = STANDARD) -> list[ir.Node]:
    """The nodes of one operator in graph order; a list, so that the graph may change under the loop."""
    return [node for node in graph if node.op_type == op_type and node.domain == domain]


def produced_by(value: ir.Value | None, op_type: str, domain: str = STANDARD) -> ir.Node | None:
    """The node that computes `value`, if it is of this operator."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == domain else None


def only_consumer(value: ir.Value, op_type: str, domain: str = STANDARD) -> ir.Node | None:
    """The node that reads `value`, if nothing else does and it is of this operator."""
    users = {id(node): node for node in value.consumers()}
    if value.is_graph_output() or len(users) != 1:
        return None
    node = next(iter(users.values()))
    return node if node.op_type == op_type and node.domain == domain else None


def other_input(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """What a node of two inputs reads beside `value`."""
    first, second = node.inputs
    return second if first is value else first


def stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer that `value` is, or is the Cast of."""
    cast = produced_by(value, "Cast")
    source = value if cast is None else cast.inputs[0]
    return source if source is not None and source.is_initializer() else None


def integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.as_string())


def constant_operand(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Of a node that combines a value and a constant of one element, in this order or the other: the two."""
    for value, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        numbers = array_of(other)
        if value is not None and numbers is not None and numbers.size == 1:
            return value, float(numbers.reshape(()))
    return None


def is_permutation(node: ir.Node, order: Sequence[int]) -> bool:
    attribute = node.attributes.get("perm")
    return attribute is not None and tuple(attribute.as_ints()) == tuple(order)


def fused(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    outputs: Sequence[ir.Value],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Node:
    """A node of the domain `inflight`, called after its first output."""
    return ir.node(op_type, inputs, attributes, domain=DOMAIN, outputs=outputs, name=name_of(outputs[0]))


def like(value: ir.Value) -> ir.Value:
    """A new value with the name, type and shape of `value`, which it is about to replace."""
    return new_value(name_of(value), dtype_of(value), shape_of(value))


def replace(graph: ir.Graph, old: Sequence[ir.Value], new: Sequence[ir.Value]) -> None:
    """Let the readers of `old` read `new` (graph outputs included), and drop every node that nothing reads any more."""
    for before, after in zip(old, new, strict=True):
        before.replace_all_uses_with(after, replace_graph_outputs=True)
    drop_unused(graph, [node for value in old if (node := value.producer()) is not None])


def drop_unused(graph: ir.Graph, candidates: Sequence[ir.Node]) -> None:
    """Remove those of `candidates` that nothing reads, and then whatever fed only them."""
    pending = list(candidates)
    while pending:
        node = pending.pop()
        if node.graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        sources = [
            producer for value in node.inputs if value is not None and (producer := value.producer()) is not None
        ]
        graph.remove(node, safe=True)
        pending += sources
