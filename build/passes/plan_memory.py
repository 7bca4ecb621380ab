"""Memory planning: each intermediate value gets an offset into one workspace; dead values make room for new ones.

Buffers are placed largest first at the lowest offset where they overlap none that lives at the same time (Pisarchyk and
Lee, 2020, "greedy by size"). An output takes over the buffer of an input where its operator allows it and nothing else
reads that input any more: so the residual stream is one buffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.graph.operators import reusable_inputs, updated_in_place
from inflight.build.graph.quantized_rows import row_bytes
from inflight.build.graph.values import dtype_of, shape_of

OFFSET, WORKSPACE_BYTES = "inflight.offset", "inflight.workspace_bytes"
# Of a value that is written, in part, while the first input of its node is: its memory is its own from then on.
EARLY = "inflight.early"
ALIGNMENT = 64


@dataclass(slots=True)
class _Buffer:
    """Memory of one value after the other: first written by node `first`, last read by node `last`, in graph order."""

    values: list[ir.Value]
    size: int
    first: int
    last: int
    offset: int = 0

    def lives_with(self, other: _Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(graph: ir.Graph, *, sizes: Mapping[str, int]) -> None:
    """Write the plan into the metadata. `sizes` bounds the symbolic dimensions: T and R."""
    placed: list[_Buffer] = []
    for buffer in sorted(_buffers(graph, sizes), key=lambda buffer: (-buffer.size, buffer.first)):
        _place(buffer, placed)
        placed.append(buffer)
        for value in buffer.values:
            value.metadata_props[OFFSET] = str(buffer.offset)
    total = max((buffer.offset + buffer.size for buffer in placed), default=0)
    graph.metadata_props[WORKSPACE_BYTES] = str(total)


def _buffers(graph: ir.Graph, sizes: Mapping[str, int]) -> list[_Buffer]:
    order = {id(node): index for index, node in enumerate(graph)}
    end = len(order)
    buffers: list[_Buffer] = []
    held: dict[ir.Value, _Buffer] = {}
    for first, node in enumerate(graph):
        caches, reusable = updated_in_place(node), dict(reusable_inputs(node))
        for value in node.outputs:
            if value in caches:
                continue
            last = end if value.is_graph_output() else max((order[id(user)] for user in value.consumers()), default=0)
            size, buffer = _bytes(value, sizes), held.get(reusable.get(value, value))
            if buffer is None or buffer.last != first or buffer.size != size:
                buffer = _Buffer([], size, _written(value, order, first), first)
                buffers.append(buffer)
            buffer.values.append(value)
            buffer.last = max(first, last)
            held[value] = buffer
    return buffers


def _written(value: ir.Value, order: Mapping[int, int], first: int) -> int:
    if EARLY not in value.metadata_props:
        return first
    node = value.producer()
    source = None if node is None else node.inputs[0]
    maker = None if source is None else source.producer()
    assert maker is not None, f"{value.name} is written before what it is made of"
    return order[id(maker)]


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    *rows, width = (dim if isinstance(dim, int) else sizes[dim] for dim in shape_of(value))
    return -(-math.prod(rows) * row_bytes(width, dtype_of(value)) // ALIGNMENT) * ALIGNMENT


def _place(buffer: _Buffer, placed: list[_Buffer]) -> None:
    for other in sorted((other for other in placed if other.lives_with(buffer)), key=lambda other: other.offset):
        if buffer.offset + buffer.size <= other.offset:
            return
        buffer.offset = max(buffer.offset, other.offset + other.size)
