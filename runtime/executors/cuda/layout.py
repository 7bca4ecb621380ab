"""Arrays of a step side by side in one piece of memory: the same on this machine and on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.executors.cuda.backend import Array

# Kernels rely on addresses that are multiples of 16 bytes.
_ALIGNMENT = 16

Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Field:
    """`by_row`: the first axis is that of the rows of a step, so that launches may begin behind the first."""

    dtype: Any
    shape: tuple[int, ...]
    by_row: bool = True

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes


class Layout:
    """The fields by name, in order; `offsets` are in bytes."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self.fields = dict(fields)
        self.offsets: dict[str, int] = {}
        self.nbytes = 0
        for name, field in fields.items():
            self.offsets[name] = self.nbytes
            self.nbytes += -(-field.nbytes // _ALIGNMENT) * _ALIGNMENT

    def place(self, name: str, row: int) -> int:
        """Where a launch that begins at that row finds the field, in bytes."""
        field = self.fields[name]
        return self.offsets[name] + (row * field.row_bytes if field.by_row else 0)

    def views(self, memory: Bytes) -> dict[str, Array]:
        """The fields in memory of `nbytes`."""
        return {
            name: memory[self.offsets[name] : self.offsets[name] + field.nbytes].view(field.dtype).reshape(field.shape)
            for name, field in self.fields.items()
        }
