"""One scale per output, or one for the whole matrix: DequantizeLinear along axis 0, or without an axis."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import name_of, shape_of, tensor_of
from inflight.build.network.stored_tensors import seen_as, stored_tensor
from inflight.build.passes.rewrite import integer
from inflight.build.quantization.stored_matrix import QuantizedMatrix, StoredMatrix, find_transposed, initializer_of

FLOAT = ir.DataType.FLOAT
_LEVELS = (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN)


def write(builder: GraphBuilder, matrix: StoredMatrix, name: str) -> ir.Value:
    """float32 [in, out], called `name`. A scale for the matrix, stored as (1,), is a scalar here."""
    entry, scale = matrix.weight, matrix.scale
    outputs, inputs = entry.shape
    levels = initializer_of(builder, entry)
    whole = scale.shape == (1,) and outputs > 1
    scales = builder.initializer(scale.name, stored_tensor(scale, shape=() if whole else None))
    attributes = {} if whole else {"axis": 0}
    weight = builder.op("DequantizeLinear", [levels, scales], f"{entry.name}.float32", FLOAT, entry.shape, attributes)
    return builder.op("Transpose", [weight], name, FLOAT, (inputs, outputs), {"perm": [1, 0]})


def find(value: ir.Value | None) -> QuantizedMatrix | None:
    """The matrix behind float32 [in, out]."""
    found = find_transposed(value)
    if found is None:
        return None
    node, levels, scale = found
    if levels.dtype not in _LEVELS or integer(node, "block_size", 0) != 0:
        return None
    if shape_of(scale) == ():
        return QuantizedMatrix(levels, seen_as(name_of(scale), tensor_of(scale), (1,)), 0)
    per_output = integer(node, "axis", 1) == 0 and len(shape_of(scale)) == 1
    return QuantizedMatrix(levels, scale, 0) if per_output else None
