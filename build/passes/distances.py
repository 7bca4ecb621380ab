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

# A kernel reads a table in vectors, up to so many columns behind that of the last key that a row sees.
READ_BEHIND = 64
# The inputs of RopeCacheWrite that change queries or keys.
_CHANGES = (1, 2, 3, 4, 10)


@dataclass(frozen=True, slots=True)
class Distances:
    """The mask without what is added, the columns int32 [2 P - 1 + READ_BEHIND] of key - query + `origin`, and of what
    the numbers are made: `qkv` [B, L, (q + k + v) heads * D] and the rows [2 heads, 2 span, D].
    """

    mask: ir.Value
    columns: ir.Value
    origin: int
    qkv: ir.Value
    rows: ir.Value
    name: str

    def write(self, graph: ir.Graph, before: ir.Node) -> ir.Value:
        """The product [B, L, 2 heads * 2 span] of queries and keys, which are the first heads of their rows."""
        heads, width, size = (int(dim) for dim in shape_of(self.rows))
        numbers = new_value(self.name, dtype_of(self.qkv), (*shape_of(self.qkv)[:2], heads * width))
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
    return Distances(plain, _numbers(call, columns, table), len(table) // 2, qkv, weight, name_of(call.outputs[0]))


def _numbers(call: ir.Node, columns: ir.Value, table: npt.NDArray[Any]) -> ir.Value:
    """The table as int32, with some behind it that a kernel may read."""
    graph, name = call.graph, f"{name_of(columns)}.padded"
    assert isinstance(graph, ir.Graph)
    if name not in graph.initializers:
        padded = np.pad(table.astype(np.int32), (0, READ_BEHIND))
        wide = new_value(name, ir.DataType.INT32, padded.shape)
        wide.const_value = ir.tensor(padded, name=name)
        graph.register_initializer(wide)
    return graph.initializers[name]
