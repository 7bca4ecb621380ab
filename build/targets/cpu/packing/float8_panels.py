"""Panels of 8-bit floats (kernels/float8.h): of each group the scales of 64 columns, then their bytes by pairs of k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.errors import BuildError

Array = npt.NDArray[Any]

_COLUMNS, _PAIR = 64, 2
_SCALE_BYTES = 4
_MAGNITUDE, _NAN = 0x7F, 0x7F


@dataclass(frozen=True)
class Float8Shape:
    """A product of E4M3 weights with rows of `width` values, of which `group` share a scale: all, or an even number."""

    width: int
    group: int

    def __post_init__(self) -> None:
        if self.group != self.width and self.group % _PAIR:
            raise BuildError(f"A group of {self.group} 8-bit floats: the cpu target takes even numbers.")

    @property
    def groups(self) -> int:
        """Scales of a column."""
        return -(-self.width // self.group)

    @property
    def panel_bytes(self) -> int:
        return _COLUMNS * (self.groups * _SCALE_BYTES + -(-self.width // _PAIR) * _PAIR)

    def levels(self, rows: Array) -> npt.NDArray[np.uint8]:
        """Rows float8_e4m3fn [rows, in] as bytes. Raises BuildError for NaN, which the kernels do not understand."""
        levels: npt.NDArray[np.uint8] = np.ascontiguousarray(rows).view(np.uint8)
        if ((levels & _MAGNITUDE) == _NAN).any():
            raise BuildError("A weight is NaN.", "The checkpoint is broken: quantize the model again.")
        return levels

    def to_panels(self, columns: npt.NDArray[np.uint8], *given: Array) -> npt.NDArray[np.uint8]:
        """Bytes [panels * 64, width] and scales float32 [panels * 64, groups] to [panels, panel_bytes]."""
        (scales,) = given
        whole = self.groups * (self.group + self.group % _PAIR)
        padded = np.zeros((len(columns), whole), np.uint8)
        padded[:, : self.width] = columns
        pairs = padded.view(np.uint16).reshape(-1, _COLUMNS, self.groups, whole // self.groups // _PAIR)
        factors = np.ascontiguousarray(scales, np.float32).reshape(len(pairs), _COLUMNS, self.groups)
        parts = [np.ascontiguousarray(factors.transpose(0, 2, 1)), np.ascontiguousarray(pairs.transpose(0, 2, 3, 1))]
        together = [part.reshape(len(pairs), self.groups, -1).view(np.uint8) for part in parts]
        panels: npt.NDArray[np.uint8] = np.concatenate(together, axis=-1).reshape(len(pairs), -1)
        return panels[:, : self.panel_bytes]
