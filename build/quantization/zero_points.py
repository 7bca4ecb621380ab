"""Zero points of groups: what every weight of a group has beyond its level times its scale, in float32.

DequantizeLinear has zero points of its own, but those are integers. Here they are repeated over their groups and added.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import array_of, name_of, shape_of
from inflight.build.network.stored_tensors import stored_tensor
from inflight.build.passes.rewrite import other_input, produced_by
from inflight.tensor_file import TensorEntry

FLOAT = ir.DataType.FLOAT


def write(builder: GraphBuilder, weight: ir.Value, entry: TensorEntry, size: int, name: str) -> ir.Value:
    """weight float32 [in, out] plus the zero points [out, groups] of `size` inputs each, in a value called `name`."""
    op, constant = builder.op, builder.constant
    inputs, outputs = (int(dim) for dim in shape_of(weight))
    groups = entry.shape[1]
    stored = builder.initializer(entry.name, stored_tensor(entry))
    turned = op("Transpose", [stored], f"{entry.name}.turned", FLOAT, (groups, outputs), {"perm": [1, 0]})
    axis = constant("weights.zero_points.axis", [1])
    column = op("Unsqueeze", [turned, axis], f"{entry.name}.column", FLOAT, (groups, 1, outputs))
    shape = constant(f"weights.zero_points.of_{size}", [1, size, 1])
    wide = op("Expand", [column, shape], f"{entry.name}.wide", FLOAT, (groups, size, outputs))
    flat = constant(f"weights.{groups * size}_by_{outputs}", [groups * size, outputs])
    repeated = op("Reshape", [wide, flat], f"{entry.name}.repeated", FLOAT, (groups * size, outputs))
    if groups * size != inputs:
        limits = {"start": 0, f"end_{inputs}": inputs, "axis": 0}
        bounds = [constant(f"weights.zero_points.slice_{text}", [value]) for text, value in limits.items()]
        repeated = op("Slice", [repeated, *bounds], f"{entry.name}.cut", FLOAT, (inputs, outputs))
    return op("Add", [weight, repeated], name, FLOAT, (inputs, outputs))


def find(value: ir.Value | None) -> tuple[ir.Value, ir.Value, int] | None:
    """Behind float32 [in, out]: the weight without its zero points, those [out, groups], and the size of a group."""
    add = produced_by(value, "Add")
    for operand in () if add is None else add.inputs:
        found = _repeated(operand)
        weight = None if add is None or operand is None else other_input(add, operand)
        if found is not None and weight is not None:
            return weight, *found
    return None


def _repeated(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    cut = produced_by(value, "Slice")
    flat = produced_by(value if cut is None else cut.inputs[0], "Reshape")
    wide = None if flat is None else produced_by(flat.inputs[0], "Expand")
    column = None if wide is None else produced_by(wide.inputs[0], "Unsqueeze")
    turned = None if column is None else produced_by(column.inputs[0], "Transpose")
    zeros = None if turned is None else turned.inputs[0]
    shape = None if wide is None else array_of(wide.inputs[1])
    if zeros is None or shape is None or not zeros.is_initializer() or not name_of(zeros).endswith(".zero"):
        return None
    return zeros, int(shape[1])
