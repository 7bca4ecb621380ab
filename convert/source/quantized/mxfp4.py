"""MXFP4 (OCP Microscaling) of compressed-tensors: floats of 4 bits (E2M1) in groups of 32 with a scale (E8M0)."""

from __future__ import annotations

import numpy as np

from inflight.convert.quantization.codebooks import powers_of_two
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.stored import read_rows
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, SourceTensor
from inflight.dtypes import numpy_dtype
from inflight.tensor_file import TensorEntry

MX_GROUP = 32


def mxfp4_tensor(parts: Parts, module: str) -> SourceTensor | None:
    """The matrix of `weight_packed`, two codes to a byte, the first in the lower half, and `weight_scale`."""
    packed = parts.take(module, "weight_packed", dtypes=("uint8",))
    if packed is None:
        return None
    if len(packed.shape) != 2 or 2 * packed.shape[1] % MX_GROUP:
        parts.problems.append(f"misshapen tensor: {packed.name} {packed.shape} holds no groups of {MX_GROUP}")
        return None
    rows, width = packed.shape[0], 2 * packed.shape[1]
    parts.find(module, "weight_shape")
    scale = parts.take(module, "weight_scale", [(rows, width // MX_GROUP)], ("uint8",))
    return None if scale is None else Mxfp4Tensor(f"{module}.weight", packed, scale)


class Mxfp4Tensor(SourceTensor):
    """E2M1 times 2^(scale - 127), exact in bfloat16."""

    dtype = "bfloat16"
    stored_type = "MXFP4"
    work_bytes = 16

    def __init__(self, name: str, packed: TensorEntry, scale: TensorEntry) -> None:
        self.name, self.shape = name, (packed.shape[0], 2 * packed.shape[1])
        self._packed, self._scale = packed, scale

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes + self._scale.nbytes

    @property
    def form(self) -> LevelForm:
        return LevelForm(4, MX_GROUP, False, "e2m1")

    def rows(self, start: int, stop: int) -> Array:
        rounded: Array = self.levels(start, stop).values().astype(numpy_dtype(self.dtype))
        return rounded

    def levels(self, start: int, stop: int) -> GroupLevels:
        packed = read_rows(self._packed, start, stop)
        codes = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.int32)
        groups = np.arange(codes.shape[1], dtype=np.int64) // MX_GROUP
        scales = powers_of_two(read_rows(self._scale, start, stop))
        return GroupLevels(codes, scales, None, groups, MX_GROUP, codebook="e2m1")
