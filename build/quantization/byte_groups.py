"""int8 or 8-bit floats with a scale per group of inputs: DequantizeLinear in blocks along axis 1."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import integer
from inflight.build.quantization.stored_matrix import QuantizedMatrix, StoredMatrix, find_transposed, initializer_of

FLOAT = ir.DataType.FLOAT
_LEVELS = (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN)


def write(builder: GraphBuilder, matrix: StoredMatrix, name: str) -> ir.Value:
    """float32 [in, out], called `name`."""
    entry, attributes = matrix.weight, {"axis": 1, "block_size": matrix.group_size}
    outputs, inputs = entry.shape
    operands = [initializer_of(builder, entry), initializer_of(builder, matrix.scale)]
    weight = builder.op("DequantizeLinear", operands, f"{entry.name}.float32", FLOAT, entry.shape, attributes)
    return builder.op("Transpose", [weight], name, FLOAT, (inputs, outputs), {"perm": [1, 0]})


def find(value: ir.Value | None) -> QuantizedMatrix | None:
    """The matrix behind float32 [in, out]."""
    found = find_transposed(value)
    if found is None:
        return None
    node, levels, scale = found
    size = integer(node, "block_size", 0)
    grouped = levels.dtype in _LEVELS and size > 0 and integer(node, "axis", 1) == 1
    return QuantizedMatrix(levels, scale, size) if grouped and len(shape_of(scale)) == 2 else None
