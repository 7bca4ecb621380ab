"""Panels of integer weights: their sizes, and how weights and scales come into their order (kernels/qshape.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.build.graph.quantized_rows import SMALLEST_GROUP
from inflight.errors import BuildError

Array = npt.NDArray[Any]

# The greatest k whose sum of 128 * 128 fits in 32 bits.
LONGEST_ROW = 2**31 // (128 * 128) - 1
_COLUMNS, _STEP_BYTES = 64, 256


@dataclass(frozen=True)
class QuantizedShape:
    """A product of integers: `bits` of a weight, values of a row, how many of them share a scale (all: `width`), and
    whether they share a zero point as well. `coded`: weights are codes 0 .. 15 of a table. `multiples`:
    scales are int8 multiples of a unit, and the units of its columns, float32, end a panel.
    """

    bits: int
    width: int
    group: int
    scale_bytes: int
    zeros: bool = False
    coded: bool = False
    multiples: bool = False

    def __post_init__(self) -> None:
        if self.width > LONGEST_ROW:
            raise BuildError(f"A product over {self.width} values may not fit in 32 bits; {LONGEST_ROW} is the most.")
        if self.group != self.width and self.group % SMALLEST_GROUP:
            raise BuildError(f"A group of {self.group} weights: the cpu target takes multiples of {SMALLEST_GROUP}.")

    @property
    def step(self) -> int:
        """Values of k in 256 bytes of a panel."""
        return _STEP_BYTES * 8 // (_COLUMNS * self.bits)

    @property
    def groups(self) -> int:
        return -(-self.width // self.group)

    @property
    def panel_bytes(self) -> int:
        units = _COLUMNS * 4 if self.multiples else 0
        return self.groups * self.group_scale_bytes + -(-self.width // self.step) * _STEP_BYTES + units

    @property
    def group_scale_bytes(self) -> int:
        """Of the scales of a group, and of its zero points."""
        return _COLUMNS * self.scale_bytes * (2 if self.zeros else 1)

    def levels(self, rows: Array) -> npt.NDArray[np.uint8]:
        """Rows int8, int4 or uint4 [rows, in] as they lie in a panel: weight + 128, or + 8; codes as they are."""
        if self.coded:
            return rows.astype(np.uint8)
        return rows.astype(np.int8).view(np.uint8) + np.uint8(2 ** (self.bits - 1))

    def to_panels(self, columns: npt.NDArray[np.uint8], *scales: Array) -> npt.NDArray[np.uint32]:
        """Levels [panels * 64, width], scales and, where there are some, zero points [panels * 64, groups] or units
        [panels * 64, 1] to [panels, panel_bytes / 4].
        """
        factors, *zeros = scales
        if self.multiples:
            units = zeros[0].astype(np.float32).view(np.uint32).reshape(-1, _COLUMNS)
            return np.concatenate([_to_panels(columns, [factors], self), units], axis=1)
        return _to_panels(columns, [factors, *(self.panel_zeros(factors, each) for each in zeros)], self)

    def panel_zeros(self, scales: Array, zeros: Array) -> Array:
        """Zero points as a panel has them, in the type of the scales: beside float16 scales of 4-bit weights they are
        those of levels 0 .. 15.
        """
        if scales.dtype != np.float16:
            return zeros
        least = zeros.astype(np.float64) - (8 * scales.astype(np.float64) if self.bits == 4 else 0)
        with np.errstate(over="ignore"):
            narrow: Array = least.astype(np.float16)
        return narrow

    def keeps_zeros(self, scales: Array, zeros: Array) -> bool:
        """True where the kernel makes these zero points, bit for bit, of what a panel has of them."""
        found = self.panel_zeros(scales, zeros).astype(np.float64)
        if scales.dtype == np.float16 and self.bits == 4:
            found += 8 * scales.astype(np.float64)
        return bool(np.array_equal(found.astype(np.float32), zeros))


def _to_panels(
    columns: npt.NDArray[np.uint8], scales: Sequence[Array], shape: QuantizedShape
) -> npt.NDArray[np.uint32]:
    steps, group_steps = -(-shape.width // shape.step), -(-shape.group // shape.step)
    padded = np.zeros((len(columns), shape.groups * group_steps * shape.step), np.uint8)
    padded[:, : shape.width] = columns
    if shape.bits == 4:
        quads = padded.reshape(len(columns), -1, 2, 4)
        padded = quads[:, :, 0] | quads[:, :, 1] << np.uint8(4)
    words = padded.reshape(len(columns), -1).view(np.uint32).reshape(-1, _COLUMNS, shape.groups, group_steps)
    scale_words = shape.group_scale_bytes // 4
    panels = np.empty((len(words), shape.groups, scale_words + group_steps * _COLUMNS), np.uint32)
    ordered = [each.reshape(-1, _COLUMNS, shape.groups).transpose(0, 2, 1) for each in scales]
    panels[:, :, :scale_words] = np.ascontiguousarray(np.concatenate(ordered, axis=-1)).view(np.uint32)
    panels[:, :, scale_words:] = words.transpose(0, 2, 3, 1).reshape(len(words), shape.groups, -1)
    unused = (shape.groups * group_steps - steps) * _COLUMNS
    return panels.reshape(len(words), -1)[:, : panels[0].size - unused]
