"""Floats of 4 bits (E2M1) in groups with a scale: MXFP4 (OCP Microscaling) of compressed-tensors, and NVFP4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.codebooks import powers_of_two
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.stored import read_all, read_rows
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, SourceTensor
from inflight.dtypes import numpy_dtype
from inflight.files.tensor_file import TensorEntry

MX_GROUP, NV_GROUP = 32, 16
NV_SCALE = "float8_e4m3fn"
_Scales = npt.NDArray[np.float32]


def mxfp4_tensor(parts: Parts, module: str) -> SourceTensor | None:
    """The matrix of `weight_packed` and `weight_scale`, which are exponents: E2M1 times 2^(scale - 127), exact in
    bfloat16.
    """
    packed = _packed(parts, module, "weight_packed", MX_GROUP)
    if packed is None:
        return None
    rows, width = packed.shape[0], 2 * packed.shape[1]
    parts.find(module, "weight_shape")
    scale = parts.take(module, "weight_scale", [(rows, width // MX_GROUP)], ("uint8",))
    if scale is None:
        return None
    return E2m1Tensor("MXFP4", module, (packed, scale), MX_GROUP, "bfloat16", powers_of_two)


def nvfp4_tensor(parts: Parts, module: str, weight: str, whole: str, *, divides: bool = False) -> SourceTensor | None:
    """The matrix of `weight` and `weight_scale`: E2M1 times an E4M3 scale, times the float32 number `whole` of the
    matrix, or with `divides` over it.
    """
    packed = _packed(parts, module, weight, NV_GROUP)
    if packed is None:
        return None
    rows, width = packed.shape[0], 2 * packed.shape[1]
    scale = parts.take(module, "weight_scale", [(rows, width // NV_GROUP)], (NV_SCALE,))
    number = parts.take(module, whole, [(), (1,)], ("float32",))
    if scale is None or number is None:
        return None
    by = read_all(number).reshape(-1)[0].astype(np.float32)
    if not np.isfinite(by) or by <= 0:
        parts.problems.append(f"{number.name} must be one number above zero, and is {by}")
        return None

    def scales(stored: Array) -> _Scales:
        wide = stored.astype(np.float32)
        found: _Scales = wide / by if divides else wide * by
        return found

    return E2m1Tensor("NVFP4", module, (packed, scale), NV_GROUP, "float32", scales)


def _packed(parts: Parts, module: str, name: str, group: int) -> TensorEntry | None:
    """Two codes to a byte, the first in the lower half, whole groups to a row."""
    packed = parts.take(module, name, dtypes=("uint8",))
    if packed is not None and (len(packed.shape) != 2 or 2 * packed.shape[1] % group):
        parts.problems.append(f"misshapen tensor: {packed.name} {packed.shape} holds no groups of {group}")
        return None
    return packed


class E2m1Tensor(SourceTensor):
    """E2M1 times the scales of groups of `group` inputs, which `scales` makes of the stored ones; in `dtype`."""

    work_bytes = 16

    def __init__(
        self,
        stored_type: Literal["MXFP4", "NVFP4"],
        module: str,
        parts: tuple[TensorEntry, TensorEntry],
        group: int,
        dtype: str,
        scales: Callable[[Array], _Scales],
    ) -> None:
        self._packed, self._scale = parts
        rows, half = self._packed.shape
        self.name, self.shape, self.dtype = f"{module}.weight", (rows, 2 * half), dtype
        self._stored_type, self._group, self._scales = stored_type, group, scales

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes + self._scale.nbytes

    @property
    def stored_type(self) -> str:
        return self._stored_type

    @property
    def form(self) -> LevelForm:
        return LevelForm(4, self._group, False, "e2m1")

    def rows(self, start: int, stop: int) -> Array:
        rounded: Array = self.levels(start, stop).values().astype(numpy_dtype(self.dtype))
        return rounded

    def levels(self, start: int, stop: int) -> GroupLevels:
        packed = read_rows(self._packed, start, stop)
        codes = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.int32)
        groups = np.arange(codes.shape[1], dtype=np.int64) // self._group
        scales = self._scales(read_rows(self._scale, start, stop))
        return GroupLevels(codes, scales, None, groups, self._group, codebook="e2m1")
