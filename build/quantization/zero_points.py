"""Zero points of groups: what every weight of a group has beyond its level times its scale, in float32.

DequantizeLinear has zero points of its own, but those are integers. Here they are repeated over their groups and added.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import name_of, shape_of
from inflight.build.quantization import per_group
from inflight.files.tensor_file import TensorEntry

FLOAT = ir.DataType.FLOAT


def write(builder: GraphBuilder, weight: ir.Value, entry: TensorEntry, size: int, name: str) -> ir.Value:
    """weight float32 [in, out] plus the zero points [out, groups] of `size` inputs each, in a value called `name`."""
    shape = shape_of(weight)
    return builder.op("Add", [weight, per_group.write(builder, entry, size, int(shape[0]))], name, FLOAT, shape)


def find(value: ir.Value | None) -> tuple[ir.Value, ir.Value, int] | None:
    """Behind float32 [in, out]: the weight without its zero points, those [out, groups], and the size of a group."""
    found = per_group.find(value, "Add")
    return found if found is not None and name_of(found[1]).endswith(".zero") else None
