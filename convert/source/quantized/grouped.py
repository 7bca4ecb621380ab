"""Matrices of integers that share scales: what GPTQ, AWQ and others store differently is the same arithmetic."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from inflight.convert.source.stored import read_all
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, Measured, SourceTensor
from inflight.errors import ModelError
from inflight.files.tensor_file import TensorEntry

Integers = npt.NDArray[np.int32]
_ROWS = 1024


class GroupedTensor(SourceTensor):
    """(levels - zeros) * scales, in the type of the scales. `parts` are the stored tensors, `form` names their form.

    `order` names the group of each input. Where they are no neighbours (GPTQ's desc_act), `levels` come in an order of
    the inputs in which they are.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        form: str,
        parts: Sequence[TensorEntry | None],
        scale: TensorEntry,
        *,
        bits: int,
        group_size: int | None,
        order: TensorEntry | None = None,
    ) -> None:
        self.name, self.shape, self.dtype = name, shape, scale.dtype
        self._form, self._scale, self._order = form, scale, order
        self._bits, self._group_size = bits, group_size or shape[1]
        self._parts = [part for part in (*parts, scale, order) if part is not None]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    @property
    def stored_type(self) -> str:
        return self._form

    @property
    def work_bytes(self) -> int:
        return 16

    def rows(self, start: int, stop: int) -> Array:
        scales, zeros = self._scales(start, stop), self._zeros(start, stop)
        return GroupLevels(self._levels(start, stop), scales, zeros, self._groups, None).values()

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        if self.form is None:
            return None
        levels, order = self._levels(start, stop), None if self.measured is None else self.measured.order
        levels, groups = (levels, self._groups) if order is None else (levels[:, order], self._groups[order])
        return GroupLevels(levels, self._scales(start, stop), self._zeros(start, stop), groups, self._group_size)

    @cached_property
    def form(self) -> LevelForm | None:
        """Zero points are read: those that are all 0 are none. None where no order makes neighbours of the groups."""
        width, spans = self.shape[1], range(0, self.shape[0], _ROWS)
        neighbours = np.arange(width, dtype=np.int64) // self._group_size
        if not np.array_equal(np.sort(self._groups), neighbours):
            return None
        zeros = (self._zeros(start, min(start + _ROWS, self.shape[0])) for start in spans)
        has_zeros = any(each is not None and bool(each.any()) for each in zeros)
        bits: Literal[4, 8] = 4 if self._bits <= 4 else 8
        return LevelForm(bits, min(self._group_size, width), has_zeros, ordered=self.measured is not None)

    @cached_property
    def measured(self) -> Measured | None:
        """An order of the inputs in which the groups are neighbours; None: they are already."""
        groups = self._groups
        if (groups[1:] >= groups[:-1]).all():
            return None
        return Measured(order=np.argsort(groups, kind="stable").astype(np.int32))

    @cached_property
    def _groups(self) -> npt.NDArray[np.int64]:
        """The group of each input."""
        width, size = self.shape[1], self._group_size
        if self._order is None:
            return np.arange(width, dtype=np.int64) // size
        count, order = -(-width // size), read_all(self._order).astype(np.int64)
        if not ((order >= 0) & (order < count)).all():
            raise ModelError(f"{self._order.file}: {self._order.name} names groups beyond the {count} that there are.")
        return order

    @abstractmethod
    def _levels(self, start: int, stop: int) -> Integers:
        """Rows of levels [stop - start, inputs], -2^(bits - 1) .. 2^(bits - 1) - 1."""

    @abstractmethod
    def _scales(self, start: int, stop: int) -> Array:
        """[stop - start, groups]."""

    @abstractmethod
    def _zeros(self, start: int, stop: int) -> Integers | None:
        """[stop - start, groups], in the range of the levels; None: all zero."""


def unpack_last(words: Array, bits: int) -> Integers:
    """int32 [N, W] -> the 32 / bits unsigned integers of every word, the lowest bits first: [N, W * 32 / bits]."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return _integers((words.view(np.uint32)[..., None] >> shifts) & _mask(bits)).reshape(len(words), -1)


def unpack_first(words: Array, bits: int) -> Integers:
    """int32 [W, N] -> [W * 32 / bits, N]: neighbours of a column share a word, the lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    found = (words.view(np.uint32)[:, None, :] >> shifts[:, None]) & _mask(bits)
    return _integers(found).reshape(-1, words.shape[1])


def half_range(bits: int) -> np.int32:
    """What unsigned levels have beyond signed ones."""
    return np.int32(1 << (bits - 1))


def _mask(bits: int) -> np.uint32:
    return np.uint32((1 << bits) - 1)


def _integers(values: Any) -> Integers:
    result: Integers = values.view(np.int32)
    return result
