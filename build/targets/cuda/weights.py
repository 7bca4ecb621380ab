"""The weights file of a cuda engine: tensors in the order in which a step reads them.

Each is as the checkpoint has it, but for levels of four bits: a byte has two neighbouring inputs of an output, the
first in its low half.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, shape_of, tensor_of
from inflight.progress import Advance

# TMA descriptors and vector loads ask for 16 bytes; this is a line of the cache, twice.
ALIGNMENT = 256
_CHUNK_BYTES = 1 << 24
_HALVES = (ir.DataType.INT4, ir.DataType.UINT4)


class FlatWeights:
    """Offsets of tensors, given as they are asked for; equal names are one tensor."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._tensors: dict[str, tuple[ir.Value, int]] = {}

    def offset_of(self, value: ir.Value) -> int:
        """Of a constant of the graph, in bytes."""
        name = name_of(value)
        if name not in self._tensors:
            self._tensors[name] = value, self.total_bytes
            self.total_bytes += -(-_bytes(value) // ALIGNMENT) * ALIGNMENT
        return self._tensors[name][1]

    def write(self, path: Path, advance: Advance) -> None:
        """The bytes depend on the weights alone. `advance` is called with bytes written."""
        with path.open("wb") as file:
            for value, offset in self._tensors.values():
                file.write(bytes(offset - file.tell()))
                data = _stored(value)
                for start in range(0, len(data), _CHUNK_BYTES):
                    piece = data[start : start + _CHUNK_BYTES]
                    file.write(piece.data)
                    advance(len(piece), value.name)
            file.write(bytes(self.total_bytes - file.tell()))


def _bytes(value: ir.Value) -> int:
    *rows, width = (1, *(int(dim) for dim in shape_of(value)))
    row = -(-width // 2) if dtype_of(value) in _HALVES else width * int(dtype_of(value).itemsize)
    return math.prod(rows) * row


def _stored(value: ir.Value) -> npt.NDArray[np.uint8]:
    array = np.ascontiguousarray(tensor_of(value).numpy())
    if dtype_of(value) not in _HALVES:
        return np.asarray(array.reshape(-1).view(np.uint8))
    levels = array.astype(np.int8).view(np.uint8) & 15
    levels = np.pad(levels, ((0, 0), (0, levels.shape[1] % 2)))
    return np.asarray(levels[:, 0::2] | levels[:, 1::2] << 4).reshape(-1)
