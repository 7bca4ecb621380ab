"""One number for each group of inputs of an output, repeated over the group: an operand of float32 [in, out]."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import array_of
from inflight.build.network.stored_tensors import stored_tensor
from inflight.build.passes.rewrite import other_input, produced_by
from inflight.files.tensor_file import TensorEntry

FLOAT = ir.DataType.FLOAT


def write(builder: GraphBuilder, entry: TensorEntry, size: int, inputs: int) -> ir.Value:
    """float32 [in, out] of stored numbers [out, groups] of `size` inputs each."""
    op, constant, name = builder.op, builder.constant, entry.name
    outputs, groups = entry.shape
    stored = builder.initializer(name, stored_tensor(entry))
    turned = op("Transpose", [stored], f"{name}.turned", FLOAT, (groups, outputs), {"perm": [1, 0]})
    axis = constant("weights.per_group.axis", [1])
    column = op("Unsqueeze", [turned, axis], f"{name}.column", FLOAT, (groups, 1, outputs))
    shape = constant(f"weights.per_group.of_{size}", [1, size, 1])
    wide = op("Expand", [column, shape], f"{name}.wide", FLOAT, (groups, size, outputs))
    flat = constant(f"weights.{groups * size}_by_{outputs}", [groups * size, outputs])
    repeated = op("Reshape", [wide, flat], f"{name}.repeated", FLOAT, (groups * size, outputs))
    if groups * size == inputs:
        return repeated
    limits = {"start": 0, f"end_{inputs}": inputs, "axis": 0}
    bounds = [constant(f"weights.per_group.slice_{text}", [value]) for text, value in limits.items()]
    return op("Slice", [repeated, *bounds], f"{name}.cut", FLOAT, (inputs, outputs))


def find(value: ir.Value | None, op_type: str) -> tuple[ir.Value, ir.Value, int] | None:
    """Of `value` = op_type(operand, such numbers), in either order: the operand, the numbers [out, groups], and the
    size of a group.
    """
    node = produced_by(value, op_type)
    for repeated in () if node is None else node.inputs:
        found = _stored(repeated)
        operand = None if node is None or repeated is None else other_input(node, repeated)
        if found is not None and operand is not None:
            return operand, *found
    return None


def _stored(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    cut = produced_by(value, "Slice")
    flat = produced_by(value if cut is None else cut.inputs[0], "Reshape")
    wide = None if flat is None else produced_by(flat.inputs[0], "Expand")
    column = None if wide is None else produced_by(wide.inputs[0], "Unsqueeze")
    turned = None if column is None else produced_by(column.inputs[0], "Transpose")
    stored = None if turned is None else turned.inputs[0]
    shape = None if wide is None else array_of(wide.inputs[1])
    if stored is None or shape is None or not stored.is_initializer():
        return None
    return stored, int(shape[1])
