"""Codes of a codebook with a scale per group of inputs: a Gather of the table by the codes, times the scales.

Codes lie in the file as int4 does (int4_pairs.py), two outputs to a byte; the network has UINT4 [out / 2, in, 2].
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import name_of, shape_of
from inflight.build.network.stored_tensors import stored_tensor
from inflight.build.passes.rewrite import integer, produced_by
from inflight.build.quantization import int4_pairs, per_group
from inflight.build.quantization.stored_matrix import QuantizedMatrix, StoredMatrix
from inflight.convert.quantization.codebooks import CODEBOOKS

FLOAT, UINT4, INT32 = ir.DataType.FLOAT, ir.DataType.UINT4, ir.DataType.INT32


def write(builder: GraphBuilder, matrix: StoredMatrix, name: str) -> ir.Value:
    """float32 [in, out], called `name`."""
    op, entry, codebook = builder.op, matrix.weight, matrix.codebook
    assert codebook is not None, f"{entry.name} has no codebook"
    (pairs, inputs), outputs = entry.shape, matrix.scale.shape[0]
    shape = (pairs, inputs, 2)
    codes = builder.initializer(entry.name, stored_tensor(entry, dtype=UINT4, shape=shape))
    places = op("Cast", [codes], f"{entry.name}.codes", INT32, shape, {"to": INT32.value})
    table = builder.constant(f"weights.codebook.{codebook}", CODEBOOKS[codebook], np.float32)
    numbers = op("Gather", [table, places], f"{entry.name}.numbers", FLOAT, shape, {"axis": 0})
    unscaled = int4_pairs.write_rows(builder, numbers, outputs, f"{name}.unscaled")
    scales = per_group.write(builder, matrix.scale, matrix.group_size, inputs)
    return op("Mul", [unscaled, scales], name, FLOAT, (inputs, outputs))


def find(value: ir.Value | None) -> QuantizedMatrix | None:
    """The matrix behind float32 [in, out]."""
    scaled = per_group.find(value, "Mul")
    if scaled is None or value is None:
        return None
    unscaled, scale, size = scaled
    numbers = produced_by(int4_pairs.find_rows(unscaled), "Gather")
    places = None if numbers is None else produced_by(numbers.inputs[1], "Cast")
    table, codes = (None, None) if numbers is None or places is None else (numbers.inputs[0], places.inputs[0])
    if numbers is None or codes is None or codes.dtype != UINT4 or not codes.is_initializer():
        return None
    inputs, outputs = (int(dim) for dim in shape_of(value))
    if table is None or not table.is_initializer() or shape_of(table) != (16,) or integer(numbers, "axis", 0) != 0:
        return None
    if shape_of(codes) != (-(-outputs // 2), inputs, 2) or name_of(scale).endswith(".zero"):
        return None
    rows = int4_pairs.as_rows(codes, outputs, ml_dtypes.uint4)
    return QuantizedMatrix(rows, scale, size, codebook=table)
