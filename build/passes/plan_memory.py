"""Memory planning: each intermediate value gets an offset into one workspace; dead values make room for new ones.

Values are placed largest first at the lowest offset where they overlap no value that lives at the same time (Pisarchyk
and Lee, 2020, "greedy by size").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.operators import updated_in_place
from inflight.build.quantized_rows import QUANTIZED_BITS, quantized_row_bytes
from inflight.build.values import dtype_of, shape_of

OFFSET, WORKSPACE_BYTES = "inflight.offset", "inflight.workspace_bytes"
ALIGNMENT = 64


@dataclass(slots=True)
class _Buffer:
    """A value that is written by node `first` and last read by node `last`; both are indices in graph order."""

    value: ir.Value
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
        buffer.value.metadata_props[OFFSET] = str(buffer.offset)
    total = max((buffer.offset + buffer.size for buffer in placed), default=0)
    graph.metadata_props[WORKSPACE_BYTES] = str(total)


def _buffers(graph: ir.Graph, sizes: Mapping[str, int]) -> list[_Buffer]:
    order = {id(node): index for index, node in enumerate(graph)}
    end = len(order)
    buffers = []
    for node in graph:
        caches = updated_in_place(node)
        for value in node.outputs:
            if value in caches:
                continue
            last = end if value.is_graph_output() else max((order[id(user)] for user in value.consumers()), default=0)
            first = order[id(node)]
            buffers.append(_Buffer(value, _bytes(value, sizes), first, max(first, last)))
    return buffers


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    *rows, width = (dim if isinstance(dim, int) else sizes[dim] for dim in shape_of(value))
    dtype = dtype_of(value)
    row = quantized_row_bytes(width, dtype) if dtype in QUANTIZED_BITS else width * int(dtype.itemsize)
    return -(-math.prod(rows) * row // ALIGNMENT) * ALIGNMENT


def _place(buffer: _Buffer, placed: list[_Buffer]) -> None:
    for other in sorted((other for other in placed if other.lives_with(buffer)), key=lambda other: other.offset):
        if buffer.offset + buffer.size <= other.offset:
            return
        buffer.offset = max(buffer.offset, other.offset + other.size)
