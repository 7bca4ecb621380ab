"""Matrices whose numbers each fill a byte or more, 8-bit floats or integers, with a scale for each block of them, and
stacks of such matrices of experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from inflight.convert.source.quantized.parts import Parts, part_of
from inflight.convert.source.stored import read_all, read_columns, read_rows
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, SourceTensor
from inflight.dtypes import FLOAT_DTYPES, numpy_dtype
from inflight.files.tensor_file import TensorEntry

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
# Stacks of all experts of a layer, and what may be called after one: its scales, and those of the rows that it meets.
_STACKS = ("gate_up_proj", "down_proj")
_STACK_SCALES = ("_scale_inv", "_weight_scale", "_scale")
_ROW_SCALES = ("_input_scale", "_activation_scale")
# Columns of a matrix that are read together where its rows are wanted.
_WINDOW = 1024
_STACK_AXES = 3


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

    # A scale of a damaged file may be too large for its levels, which the writer names.
    @np.errstate(invalid="ignore", over="ignore")
    def rows(self, start: int, stop: int) -> Array:
        levels: Any = self._read(start, stop).astype(np.float32)
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
        levels = self._read(start, stop)
        levels = levels if self.form.floats else levels.astype(np.int32)
        return GroupLevels(levels, scales, zeros, groups, min(self._block[1], self.shape[1]))

    @cached_property
    def form(self) -> LevelForm | None:
        """None for E5M2, which no product reads."""
        if self._weight.dtype not in ("int8", FLOAT8[0]):
            return None
        has_zeros = self._zeros is not None and bool(read_all(self._zeros).any())
        return LevelForm(8, min(self._block[1], self.shape[1]), has_zeros, floats=self._weight.dtype == FLOAT8[0])

    def _read(self, start: int, stop: int) -> Array:
        return read_rows(self._weight, start, stop)

    def _spread(self, entry: TensorEntry, start: int, stop: int) -> Array:
        """float32 [stop - start, blocks of a row]."""
        grid = read_all(entry).reshape(self._grid)
        spread: Array = grid[np.arange(start, stop) // self._block[0]].astype(np.float32)
        return spread


class _Turned(ScaledTensor):
    """The same of a matrix (in, out), of which some columns are held."""

    def __init__(self, form: str, weight: TensorEntry, scale: TensorEntry, block: tuple[int, int]) -> None:
        super().__init__(form, replace(weight, shape=weight.shape[::-1]), scale, block)
        self._turned = weight
        self._held: tuple[int, Array] = (0, np.empty((0, 0)))

    def _read(self, start: int, stop: int) -> Array:
        first, held = self._held
        if not first <= start <= stop <= first + len(held):
            end = min(max(stop, start + _WINDOW), self.shape[0])
            held = np.ascontiguousarray(read_columns(self._turned, start, end).T)
            first, self._held = start, (start, held)
        return held[start - first : stop - first]


class ScaledStack(SourceTensor):
    """The matrices of all experts, [experts, rows, columns], with a scale for all, each, each output of each, or each
    block of each.
    """

    def __init__(self, form: str, weight: TensorEntry, scale: TensorEntry, block: tuple[int, int] | None) -> None:
        self.name, self.shape, self.dtype = weight.name, weight.shape, scale.dtype
        self._form, self._weight, self._scale, self._block = form, weight, scale, block

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes + self._scale.nbytes

    @property
    def stored_type(self) -> str:
        return self._form

    def rows(self, start: int, stop: int) -> Array:
        found = np.empty((max(0, stop - start), *self.shape[1:]), numpy_dtype(self.dtype))
        for place, number in enumerate(range(start, stop)):
            found[place] = self._whole(number)
        return found

    def _whole(self, number: int) -> Array:
        """The numbers of one expert as they lie: scales [1, columns], or of no other size, are those of columns."""
        matrix = None if self._scale.shape[1:] == (1, self.shape[2]) else self.expert(number)
        if matrix is not None:
            return matrix.rows(0, self.shape[1])
        turned = self.expert(number, turned=True)
        assert turned is not None, f"{self.name} has scales that do not go with it"
        return turned.rows(0, self.shape[2]).T

    def expert(self, number: int, *, turned: bool = False) -> ScaledTensor | None:
        """The matrix (out, in) of one expert; `turned`: which lies as (in, out). None where scales are not those of its
        outputs.
        """
        _, rows, columns = self.shape
        outputs, inputs = (columns, rows) if turned else (rows, columns)
        shape, together = self._scale.shape[1:], not self._scale.shape or self._scale.shape == (1,)
        scale = self._scale if together else part_of(self._scale, number, shape)
        if together or set(shape) <= {1}:
            block = (outputs, inputs)
        elif self._block is not None and not turned:
            block = self._block
        elif self._block is None and math.prod(shape) == outputs:
            block = (1, inputs)
        else:
            return None
        weight = part_of(self._weight, number, (rows, columns))
        return _Turned(self._form, weight, scale, block) if turned else ScaledTensor(self._form, weight, scale, block)


def scaled_stacks(parts: Parts, form: str, block: tuple[int, int] | None = None) -> Iterator[SourceTensor]:
    """Every stack of 8-bit floats whose name is that of a parameter, as experts have it. One without scales is noted in
    `parts`.
    """
    for name in _STACKS:
        for module in parts.modules(name):
            weight = parts.entry(module, name)
            if weight.dtype not in FLOAT8 or len(weight.shape) != _STACK_AXES:
                continue
            parts.find(module, name)
            for other in _ROW_SCALES:
                parts.find(module, f"{name}{other}")
            endings = [ending for ending in _STACK_SCALES if parts.has(module, f"{name}{ending}")]
            found = _stack(parts, module, f"{name}{(*endings, _STACK_SCALES[0])[0]}", form, weight, block)
            if found is not None:
                yield found


def _stack(
    parts: Parts, module: str, scale_name: str, form: str, weight: TensorEntry, block: tuple[int, int] | None
) -> ScaledStack | None:
    experts, *sides = weight.shape
    allowed: list[tuple[int, ...]] = [(), (1,), (experts,), (experts, 1), (experts, 1, 1)]
    allowed += [(experts, *shape) for side in sides for shape in ((side,), (side, 1), (1, side))]
    grid = None if block is None else tuple(-(-side // each) for side, each in zip(sides, block, strict=True))
    scale = parts.take(module, scale_name, [(experts, *grid)] if grid else allowed, FLOAT_DTYPES)
    return None if scale is None else ScaledStack(form, weight, scale, block)


def scaled_tensor(
    parts: Parts,
    module: str,
    form: str,
    weight: TensorEntry,
    scale_name: str,
    block: tuple[int, int] | None = None,
    zeros_name: str | None = None,
) -> ScaledTensor | ScaledStack | None:
    """One matrix, or a stack of them, with the scale `scale_name`, of blocks of `block`; None: one for all, for each
    row, or for each of equal groups of a row, as its shape says. Returns None with a note in `parts` for a scale that
    does not go with it.
    """
    if len(weight.shape) == _STACK_AXES and zeros_name is None and 0 not in weight.shape:
        return _stack(parts, module, scale_name, form, weight, block)
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
