"""Codebooks as the kernels of codebook.h take them: bytes, or pairs of bytes, in place of floats."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import array_of
from inflight.errors import BuildError

# As rows of 16 bits have it: 256 * 127 + 127.
GREATEST = 32639
_BYTE = 127
_HALVINGS = 4


class Digits(NamedTuple):
    """number = step * value; a value is one signed byte, or 256 times the first and the second."""

    step: float
    bytes: npt.NDArray[np.int8]

    @property
    def bits(self) -> int:
        """Of a byte, as a signed integer: 7, which some processors multiply faster, or 8."""
        return 7 if self.bytes.min() >= -64 and self.bytes.max() <= 63 else 8

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The numbers that the kernels multiply."""
        first, *second = self.bytes.astype(np.float64)
        values: npt.NDArray[np.float64] = (256 * first + second[0] if second else first) * self.step
        return values


def digits_of(table: npt.NDArray[np.float32]) -> Digits:
    """One byte where a power of two makes all numbers integers within -127 .. 127; otherwise two, with the greatest
    magnitude at 32639, and every number rounded once.
    """
    for halvings in range(_HALVINGS):
        values = table.astype(np.float64) * 2**halvings
        if (values == np.rint(values)).all() and np.abs(values).max() <= _BYTE:
            return Digits(0.5**halvings, values.astype(np.int8)[None])
    step = float(np.float32(np.abs(table).max() / GREATEST))
    whole = np.clip(np.rint(table.astype(np.float64) / step), -GREATEST, GREATEST).astype(np.int32)
    low = whole.astype(np.int8)
    return Digits(step, np.stack([((whole - low) // 256).astype(np.int8), low]))


def codebook_literal(codebook: ir.Value | None) -> str:
    """A `codebook` of kernels/qshape.h; one of no digits for weights that are no codes."""
    if codebook is None:
        return "{0}"
    table = array_of(codebook)
    if table is None or table.shape != (16,) or not np.isfinite(table).all() or not table.any():
        raise BuildError(f"{codebook.name} is no table of 16 numbers.")
    digits = digits_of(table)
    values = ", ".join(map(str, digits.bytes.reshape(-1).tolist()))
    return f"{{{len(digits.bytes)}, {digits.bits}, {digits.step.hex()}f, (const int8_t[]){{{values}}}}}"
