"""What a conversion sees of a source's tensor: a name, a shape, and rows of floating-point numbers.

How the file holds them is the tensor's own affair. A plain tensor is read as it is; a quantized one is dequantized row
by row, out of however many stored tensors it takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.codebooks import CODEBOOKS, INTEGER_FACTORS
from inflight.convert.quantization.schemes import Codebook
from inflight.convert.source.stored import read_rows
from inflight.dtypes import numpy_dtype
from inflight.files.tensor_file import TensorEntry

Array = npt.NDArray[Any]


class LevelForm(NamedTuple):
    """Levels that a checkpoint can hold as they are: signed integers of `bits`, those of `group_size` neighbouring
    inputs with one scale (the last group of a row may be shorter); `zeros`: with zero points, or offsets. `codebook`:
    levels are codes 0 .. 15 of that table. `floats`: they are 8-bit floats (E4M3), without zeros. `scaled` and
    `ordered`: they meet rows that are multiplied by factors, or whose values come in another order (`Measured`).
    """

    bits: Literal[4, 8]
    group_size: int
    zeros: bool
    codebook: Codebook | None = None
    floats: bool = False
    scaled: bool = False
    ordered: bool = False

    @property
    def label(self) -> str:
        return self.codebook or ("fp8" if self.floats else f"int{self.bits}")

    def holds(self, other: LevelForm) -> bool:
        """True where levels of the other form have one of this form without any loss."""
        whole = other.group_size % self.group_size == 0 and other.zeros <= self.zeros
        whole = whole and (other.floats, other.scaled, other.ordered) == (self.floats, self.scaled, self.ordered)
        if self.codebook or other.codebook:
            integers = self.codebook is None and self.bits == 8 and other.codebook in INTEGER_FACTORS
            return whole and (integers or self.codebook == other.codebook)
        return whole and other.bits <= self.bits


@dataclass(frozen=True, slots=True)
class GroupLevels:
    """Rows [N, K] as integers: value[n, k] = (levels[n, k] - zeros[n, g]) * scales[n, g], g = groups[k], times the
    factor and at the place of its input, where the tensor has some (`SourceTensor.measured`).

    `levels` are int32 [N, K] around 0, `scales` of the type that the value is rounded to, [N, G]; `zeros` int32 [N, G],
    None where all are 0. `groups` [K] names the group of each input; `size` is that of groups which are neighbours, in
    order, the last one perhaps shorter, and None where they are not. `offsets` float32 [N, G], in
    place of zeros, are added to the product. With a `codebook` levels are codes, without zeros, and the numbers of the
    table take their place. Levels that are 8-bit floats are float8_e4m3fn, without zeros.
    """

    levels: Array
    scales: Array
    zeros: npt.NDArray[np.int32] | None
    groups: npt.NDArray[np.int64]
    size: int | None
    offsets: npt.NDArray[np.float32] | None = None
    codebook: Codebook | None = None

    # A scale of a damaged file may be infinite, which the writer names.
    @np.errstate(invalid="ignore", over="ignore")
    def values(self) -> Array:
        """The numbers, each product rounded once to the type of the scales."""
        values = CODEBOOKS[self.codebook][self.levels] if self.codebook else self.levels.astype(np.float32)
        if self.zeros is not None:
            values -= _by_input(self.zeros.astype(np.float32), self.groups)
        values *= _by_input(self.scales.astype(np.float32), self.groups)
        if self.offsets is not None:
            values += _by_input(self.offsets, self.groups)
        return values.astype(self.scales.dtype, copy=False)

    def stored(self, form: LevelForm) -> tuple[Array, Array, Array | None]:
        """Levels int8 [N, K], or float8_e4m3fn where they are floats, and scales and zero points float32 [N, ceil(K /
        form.group_size)] of a form that holds them: value = level * scale + zero point, or with a codebook what it has
        for the level in its place.
        """
        assert self.size is not None, "the groups are no neighbours"
        levels, scales, points = self.levels, self.scales.astype(np.float32), self.offsets
        if self.codebook is not None and form.codebook is None:
            factor = INTEGER_FACTORS[self.codebook]
            levels = (CODEBOOKS[self.codebook] * factor).astype(np.int32)[levels]
            scales = scales / np.float32(factor)
        if points is None and self.zeros is not None:
            points = (-self.zeros).astype(np.float32) * scales
        if points is None:
            points = np.zeros_like(scales)
        if not form.floats:
            count = 1 << form.bits
            least = 0 if form.codebook else -count // 2
            assert levels.min(initial=0) >= least and levels.max(initial=0) < least + count, "levels beyond their form"
            levels = levels.astype(np.int8)
        width = levels.shape[1]
        repeats, groups = -(-min(self.size, width) // form.group_size), -(-width // form.group_size)
        scales, points = (np.repeat(each, repeats, axis=1)[:, :groups] for each in (scales, points))
        return levels, scales, points if form.zeros else None


def _by_input(per_group: Array, groups: npt.NDArray[np.int64]) -> Array:
    """[N, G] -> [N, K], or [N, 1] when there is one group only."""
    return per_group if per_group.shape[1] == 1 else np.take(per_group, groups, axis=1)


@dataclass(frozen=True, slots=True)
class Measured:
    """What calibration found, or the source has, for the rows that a matrix (out, in) multiplies. `scale`: the one of
    all rows; `factors` float32 [in]: what their values are multiplied by, and the matrix' columns divided by. None:
    rows have none. `bound`: over it, every level times its scale is at most the greatest number of E4M3; all matrices
    that one kernel reads have the same. `order` int32 [in]: levels are kept in this order of the inputs, column k those
    of input order[k], so that those of a group are neighbours.
    """

    scale: float | None = None
    factors: npt.NDArray[np.float32] | None = None
    bound: float | None = None
    order: npt.NDArray[np.int32] | None = None


class ChosenLevels(NamedTuple):
    """What calibration chose for a matrix, as a checkpoint stores it under `dtype`: `levels` [N, K] (int4 one to an
    int8), and `scales` float32, [1], [N] or [N, groups].
    """

    levels: Array
    scales: npt.NDArray[np.float32]
    dtype: Literal["int4", "float8_e4m3fn"]


class SourceTensor(ABC):
    """A tensor of the source under its Hugging Face name. `shape` is that of the numbers, matrices (out, in); `dtype`
    the type in which `rows` come.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    # Numbers that follow from several tensors, whose type says nothing about the model's.
    computed = False

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the source stores for it."""

    @property
    def stored_type(self) -> str:
        """What the file holds, in a word."""
        return self.dtype

    @property
    def work_bytes(self) -> int:
        """Bytes of memory that a number takes while it is read: what is read at once is bounded by them."""
        return numpy_dtype(self.dtype).itemsize

    @abstractmethod
    def rows(self, start: int, stop: int) -> Array:
        """Rows start .. stop as an array of `dtype`. Raises ModelError naming the tensor when it cannot be read."""

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        """The same rows as the integers and scales that are stored; None where the source holds no such thing."""
        return None

    @property
    def form(self) -> LevelForm | None:
        """Of all its levels; None where a checkpoint cannot hold them as they are."""
        return None

    @property
    def measured(self) -> Measured | None:
        """What calibration found of its rows, or goes with its levels; None: nothing."""
        return None

    @property
    def chosen(self) -> ChosenLevels | None:
        """The levels that calibration chose; None where it chose none."""
        return None


class PlainTensor(SourceTensor):
    """A tensor that a safetensors file holds as it is."""

    def __init__(self, entry: TensorEntry) -> None:
        self.entry = entry
        self.name, self.shape, self.dtype = entry.name, entry.shape, entry.dtype

    @property
    def nbytes(self) -> int:
        return self.entry.nbytes

    def rows(self, start: int, stop: int) -> Array:
        return read_rows(self.entry, start, stop)


class Seen(SourceTensor):
    """Another tensor under a name of its own."""

    def __init__(self, name: str, inner: SourceTensor) -> None:
        self._inner = inner
        self.name, self.shape, self.dtype = name, inner.shape, inner.dtype

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes

    @property
    def stored_type(self) -> str:
        return self._inner.stored_type

    @property
    def work_bytes(self) -> int:
        return self._inner.work_bytes

    def rows(self, start: int, stop: int) -> Array:
        return self._inner.rows(start, stop)

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        return self._inner.levels(start, stop)

    @property
    def form(self) -> LevelForm | None:
        return self._inner.form

    @property
    def measured(self) -> Measured | None:
        return self._inner.measured
