"""What the builder does with a quantization scheme, looked up by the facts of its record (convert/quantization).

A form is two inverse functions beside each other: one writes the standard network, the other finds in it what was
written, for a pass to fuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.passes.rewrite import is_permutation, produced_by
from inflight.build.quantization import (
    byte_groups,
    codes,
    dequantized_rows,
    int4_pairs,
    zero_points,
)
from inflight.build.quantization.rows import bfloat16_rows, float8_rows, integer_rows, stored_rows
from inflight.build.quantization.stored_matrix import QuantizedMatrix, RoundedRows, RowFacts, StoredMatrix
from inflight.convert.quantization.schemes import QuantScheme, RowDtype, RowScale, ScaleShare, WeightDtype


class WeightForm(NamedTuple):
    """`write`: float32 [in, out], called by a name, of a stored matrix. `find`: the matrix behind such a value."""

    write: Callable[[GraphBuilder, StoredMatrix, str], ir.Value]
    find: Callable[[ir.Value | None], QuantizedMatrix | None]


class RowForm(NamedTuple):
    """`write`: rows float32 [batch, step, K] rounded, float32 of the same shape. `find`: the rounding behind a value
    that multiplies a quantized matrix.
    """

    write: Callable[[GraphBuilder, ir.Value, RowFacts], ir.Value]
    find: Callable[[ir.Value | None], RoundedRows | None]


_AXIS_0 = WeightForm(dequantized_rows.write, dequantized_rows.find)
_GROUPS = WeightForm(byte_groups.write, byte_groups.find)
WEIGHT_FORMS: Mapping[tuple[WeightDtype, ScaleShare], WeightForm] = {
    ("int8", "row"): _AXIS_0,
    ("float8_e4m3fn", "row"): _AXIS_0,
    ("float8_e4m3fn", "matrix"): _AXIS_0,
    ("int4", "group"): WeightForm(int4_pairs.write, int4_pairs.find),
    ("int8", "group"): _GROUPS,
    ("float8_e4m3fn", "group"): _GROUPS,
    ("uint4", "group"): WeightForm(codes.write, codes.find),
}
_INTEGERS = RowForm(integer_rows.write, integer_rows.find)
_STORED = RowForm(stored_rows.write, stored_rows.find)
ROW_FORMS: Mapping[tuple[RowDtype, RowScale], RowForm] = {
    ("int8", "own"): _INTEGERS,
    ("int16", "own"): _INTEGERS,
    ("bfloat16", "own"): RowForm(bfloat16_rows.write, bfloat16_rows.find),
    ("float8_e4m3fn", "own"): RowForm(float8_rows.write, float8_rows.find),
    ("float8_e4m3fn", "stored"): _STORED,
    ("int8", "stored"): _STORED,
}


def write_matrix(builder: GraphBuilder, matrix: StoredMatrix, scheme: QuantScheme, name: str) -> ir.Value:
    """float32 [in, out], called `name`, of a matrix with its zero points, if it has some."""
    form = WEIGHT_FORMS[scheme.weights.dtype, scheme.weights.scale]
    if matrix.zero is None:
        return form.write(builder, matrix, name)
    scaled = form.write(builder, matrix, f"{name}.scaled")
    return zero_points.write(builder, scaled, matrix.zero, matrix.group_size, name)


def row_form(scheme: QuantScheme) -> RowForm:
    return ROW_FORMS[scheme.rows.dtype, scheme.rows.scale]


def find_matrix(transposed: ir.Value | None) -> QuantizedMatrix | None:
    """The quantized matrix behind float32 [in, out], if that is what it is."""
    weight, zero, size = zero_points.find(transposed) or (transposed, None, 0)
    found = (form.find(weight) for form in dict.fromkeys(WEIGHT_FORMS.values()))
    matrix = next((matrix for matrix in found if matrix is not None), None)
    if matrix is None or zero is None:
        return matrix
    return matrix._replace(zero=zero) if matrix.group_size == size else None


def find_stack(value: ir.Value | None) -> QuantizedMatrix | None:
    """The quantized matrices behind float32 [experts, out, in], as the one matrix [experts * out, in]."""
    reshape = produced_by(value, "Reshape")
    turned = None if reshape is None else produced_by(reshape.inputs[0], "Transpose")
    if turned is None or not is_permutation(turned, (1, 0)):
        return None
    return find_matrix(turned.inputs[0])


def find_rows(value: ir.Value | None) -> RoundedRows | None:
    """The rounding that made `value`, if one did."""
    found = (form.find(value) for form in dict.fromkeys(ROW_FORMS.values()))
    return next((rows for rows in found if rows is not None), None)
