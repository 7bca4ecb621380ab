"""How rows of integers lie in the workspace of the cpu target (kernels/quantize.h)."""

from __future__ import annotations

import onnx_ir as ir

# One sum of the activations for each group of k; no group is smaller.
SMALLEST_GROUP = 32
_ALIGNMENT = 64

QUANTIZED_BITS: dict[ir.DataType, int] = {ir.DataType.INT8: 8, ir.DataType.INT16: 16}


def quantized_row_bytes(width: int, dtype: ir.DataType) -> int:
    """Bytes of one row of `width` integers with its sums: for each byte of an integer the digits, then int32 sums."""
    sums = 4 * -(-width // SMALLEST_GROUP)
    return (_aligned(width) + _aligned(sums)) * QUANTIZED_BITS[dtype] // 8


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
