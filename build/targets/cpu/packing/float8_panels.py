"""Panels of 8-bit floats (kernels/float8.h): the scales of 64 columns, then their bytes by pairs of k."""

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
    """A product of E4M3 weights with rows of `width` values."""

    width: int

    @property
    def groups(self) -> int:
        """Scales of a column."""
        return 1

    @property
    def panel_bytes(self) -> int:
        return _COLUMNS * (_SCALE_BYTES + -(-self.width // _PAIR) * _PAIR)

    def levels(self, rows: Array) -> npt.NDArray[np.uint8]:
        """Rows float8_e4m3fn [rows, in] as bytes. Raises BuildError for NaN, which the kernels do not understand."""
        levels: npt.NDArray[np.uint8] = np.ascontiguousarray(rows).view(np.uint8)
        if ((levels & _MAGNITUDE) == _NAN).any():
            raise BuildError("A weight is NaN.", "The checkpoint is broken: quantize the model again.")
        return levels

    def to_panels(self, columns: npt.NDArray[np.uint8], *given: Array) -> npt.NDArray[np.uint8]:
        """Bytes [panels * 64, width] and scales float32 [panels * 64, 1] to [panels, panel_bytes]."""
        (scales,) = given
        padded = np.zeros((len(columns), -(-self.width // _PAIR) * _PAIR), np.uint8)
        padded[:, : self.width] = columns
        pairs = padded.view(np.uint16).reshape(-1, _COLUMNS, padded.shape[1] // _PAIR).transpose(0, 2, 1)
        panels = np.empty((len(pairs), self.panel_bytes), np.uint8)
        first = _COLUMNS * _SCALE_BYTES
        panels[:, :first] = np.ascontiguousarray(scales, np.float32).reshape(len(pairs), _COLUMNS).view(np.uint8)
        panels[:, first:] = np.ascontiguousarray(pairs).reshape(len(pairs), -1).view(np.uint8)
        return panels
