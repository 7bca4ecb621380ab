"""How quantized rows lie in the workspace of the cpu target, and how scales are held."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import dtype_of

# One sum of the activations for each group of k; no group is smaller.
SMALLEST_GROUP = 16
_ALIGNMENT = 64

# 8-bit floats (E4M3) that meet integer weights are held as integers, the multiples of 2^-9 that they are: their type in
# the graph, and what QuantizeRows then has as its attribute `type`.
FLOAT8_INTEGERS, FLOAT8_AS_INTEGERS = ir.DataType.INT32, "float8_integers"
# Signed bytes of an integer of a row (kernels/quantize.h).
DIGITS: dict[ir.DataType, int] = {ir.DataType.INT8: 1, ir.DataType.INT16: 2, FLOAT8_INTEGERS: 3}


def row_bytes(width: int, dtype: ir.DataType) -> int:
    """Bytes of a row of `width` values.

    Integers have their sums with them: for each byte of an integer the digits, then int32 sums. 8-bit floats are rows
    of bfloat16, which holds them exactly and is what products read (kernels/float8_rows.h).
    """
    if dtype == ir.DataType.FLOAT8E4M3FN:
        return 2 * width
    if dtype not in DIGITS:
        return width * int(dtype.itemsize)
    sums = 4 * -(-width // SMALLEST_GROUP)
    return (_aligned(width) + _aligned(sums)) * DIGITS[dtype]


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def are_multiples(scale: ir.Value) -> bool:
    """True for scales that are int8 multiples of a unit, which is an input of its own."""
    return bool(dtype_of(scale) == ir.DataType.INT8)
