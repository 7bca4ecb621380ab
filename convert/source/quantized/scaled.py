"""Matrices whose numbers each fill a byte or more, 8-bit floats or integers, with a scale for each block of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.stored import read_all, read_rows
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, SourceTensor
from inflight.dtypes import FLOAT_DTYPES, numpy_dtype
from inflight.files.tensor_file import TensorEntry

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")


class ScaledTensor(SourceTensor):
    """levels [out, in] times scales, in the type of the scales; (levels - zeros) times scales where there are zeros.

    Blocks of `block` (rows, columns) share a scale.
    """

    def __init__(
        self,
        form: str,
        weight: TensorEntry,
        scale: TensorEntry,
        block: tuple[int, int],
        zeros: TensorEntry | None = None,
    ) -> None:
        self.name, self.shape, self.dtype = weight.name, weight.shape, scale.dtype
        self._form, self._weight, self._scale, self._zeros, self._block = form, weight, scale, zeros, block
        rows, columns = weight.shape
        self._grid = (-(-rows // block[0]), -(-columns // block[1]))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self._weight, self._scale, self._zeros) if part is not None)

    @property
    def stored_type(self) -> str:
        return self._form

    @property
    def work_bytes(self) -> int:
        return 12

    def rows(self, start: int, stop: int) -> Array:
        levels: Any = read_rows(self._weight, start, stop).astype(np.float32)
        columns = np.arange(self.shape[1]) // self._block[1]
        if self._zeros is not None:
            levels = levels - self._spread(self._zeros, start, stop)[:, columns]
        scales = self._spread(self._scale, start, stop)
        scales = scales if scales.shape[1] == 1 else scales[:, columns]
        result: Array = (levels * scales).astype(numpy_dtype(self._scale.dtype))
        return result

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        if self.form is None:
            return None
        scales = self._spread(self._scale, start, stop).astype(numpy_dtype(self._scale.dtype))
        zeros = None if self._zeros is None else self._spread(self._zeros, start, stop).astype(np.int32)
        groups = np.arange(self.shape[1], dtype=np.int64) // self._block[1]
        levels = read_rows(self._weight, start, stop)
        levels = levels if self.form.floats else levels.astype(np.int32)
        return GroupLevels(levels, scales, zeros, groups, min(self._block[1], self.shape[1]))

    @cached_property
    def form(self) -> LevelForm | None:
        """None for E5M2, which no product reads."""
        if self._weight.dtype not in ("int8", FLOAT8[0]):
            return None
        has_zeros = self._zeros is not None and bool(read_all(self._zeros).any())
        return LevelForm(8, min(self._block[1], self.shape[1]), has_zeros, floats=self._weight.dtype == FLOAT8[0])

    def _spread(self, entry: TensorEntry, start: int, stop: int) -> Array:
        """float32 [stop - start, blocks of a row]."""
        grid = read_all(entry).reshape(self._grid)
        spread: Array = grid[np.arange(start, stop) // self._block[0]].astype(np.float32)
        return spread


def scaled_tensor(
    parts: Parts,
    module: str,
    form: str,
    weight: TensorEntry,
    scale_name: str,
    block: tuple[int, int] | None = None,
    zeros_name: str | None = None,
) -> ScaledTensor | None:
    """One matrix with the scale `scale_name`, of blocks of `block`; None: one for all, for each row, or for each of
    equal groups of a row, as its shape says. Returns None with a note in `parts` for a scale that does not go with it.
    """
    if len(weight.shape) != 2 or 0 in weight.shape:
        parts.problems.append(f"misshapen tensor: {weight.name} {weight.shape} is no matrix")
        return None
    rows, columns = weight.shape
    allowed: list[tuple[int, ...]]
    if block is not None:
        grid = (-(-rows // block[0]), -(-columns // block[1]))
        allowed = [grid, (grid[0], 1, grid[1], 1)]
    else:
        found = parts.find(module, scale_name)
        groups = found.shape[1] if found is not None and len(found.shape) == 2 and found.shape[1] else 1
        allowed = [(), (1,), (1, 1), (rows,), (rows, 1)]
        allowed += [(rows, groups)] if columns % groups == 0 else []
    scale = parts.take(module, scale_name, allowed, FLOAT_DTYPES)
    if scale is None:
        return None
    if block is None:
        wide = scale.shape[1] if len(scale.shape) == 2 else 1
        block = (1 if scale.shape and scale.shape[0] == rows else rows, columns // wide)
    zeros = None
    if zeros_name is not None:
        zeros = parts.take(module, zeros_name, [scale.shape])
        if zeros is None:
            return None
    return ScaledTensor(form, weight, scale, block, zeros)
