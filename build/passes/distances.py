"""What disentangled attention adds to scores becomes one product of a step's queries and keys with the rows for
distances, and a table of their columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import array_of, dtype_of, name_of, new_value, shape_of
from inflight.build.network.disentangled import DOMAIN
from inflight.build.passes.rewrite import fused, integer, stored

# Numbers behind those of a row, so that the same ones of neighbouring rows, which lie a power of two apart otherwise,
# are not all in the same few lines of a processor's cache.
APART = 16
# The inputs of RopeCacheWrite that change queries or keys.
_CHANGES = (1, 2, 3, 4, 10)


@dataclass(frozen=True, slots=True)
class Distances:
    """The mask without what is added, the columns int32 [2 P - 1] of key - query + `origin`, and of what
    the numbers are made: `qkv` [B, L, (q + k + v) heads * D] and the rows [2 heads, 2 span, D].
    """

    mask: ir.Value
    columns: ir.Value
    origin: int
    qkv: ir.Value
    rows: ir.Value
    name: str

    @property
    def width(self) -> int:
        """Numbers of a head."""
        return int(shape_of(self.rows)[1])

    def write(self, graph: ir.Graph, before: ir.Node) -> ir.Value:
        """The product [B, L, 2 heads * 2 span and APART] of queries and keys, which are the first heads of their
        rows."""
        heads, width, size = (int(dim) for dim in shape_of(self.rows))
        numbers = new_value(self.name, dtype_of(self.qkv), (*shape_of(self.qkv)[:2], heads * width + APART))
        graph.insert_before(before, fused("HeadLinear", [self.qkv, self.rows], [numbers], {"row_size": size}))
        return numbers


def find_distances(mask: ir.Value | None, attention: ir.Node, write: ir.Node) -> Distances | None:
    """What `mask` adds for the queries and keys that `write` has made of a product, and `attention` reads; None where
    it is none of disentangled attention.
    """
    call = None if mask is None else mask.producer()
    if call is None or call.domain != DOMAIN:
        return None
    plain, _, q, keys, rows, columns = call.inputs
    weight, table, qkv = stored(rows), array_of(columns), write.inputs[0]
    changed = any(index < len(write.inputs) and write.inputs[index] is not None for index in _CHANGES)
    alike = integer(write, "num_heads", 0) == integer(write, "num_kv_heads", 0)
    if (q, keys) != (attention.inputs[0], attention.inputs[1]) or changed or not alike:
        return None
    if plain is None or weight is None or table is None or qkv is None or columns is None:
        return None
    return Distances(plain, _as_int32(call, columns, table), len(table) // 2, qkv, weight, name_of(call.outputs[0]))


def _as_int32(call: ir.Node, columns: ir.Value, table: npt.NDArray[Any]) -> ir.Value:
    graph, name = call.graph, f"{name_of(columns)}.int32"
    assert isinstance(graph, ir.Graph)
    if name not in graph.initializers:
        value = new_value(name, ir.DataType.INT32, table.shape)
        value.const_value = ir.tensor(table.astype(np.int32), name=name)
        graph.register_initializer(value)
    return graph.initializers[name]
