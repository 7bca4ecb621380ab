"""The weights file of a cuda engine: each tensor as the checkpoint has it, in the order in which a step reads them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, shape_of, tensor_of
from inflight.progress import Advance

# TMA descriptors and vector loads ask for 16 bytes; this is a line of the cache, twice.
ALIGNMENT = 256
_CHUNK_BYTES = 1 << 24


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
            nbytes = math.prod(int(dim) for dim in shape_of(value)) * int(dtype_of(value).itemsize)
            self.total_bytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return self._tensors[name][1]

    def write(self, path: Path, advance: Advance) -> None:
        """The bytes depend on the weights alone. `advance` is called with bytes written."""
        with path.open("wb") as file:
            for value, offset in self._tensors.values():
                file.write(bytes(offset - file.tell()))
                data = np.ascontiguousarray(tensor_of(value).numpy()).reshape(-1).view(np.uint8)
                for start in range(0, len(data), _CHUNK_BYTES):
                    piece = data[start : start + _CHUNK_BYTES]
                    file.write(piece.data)
                    advance(len(piece), value.name)
            file.write(bytes(self.total_bytes - file.tell()))
