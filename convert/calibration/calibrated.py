"""Matrices of the source with what calibration chose for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, Measured, SourceTensor


class _Wrapped(SourceTensor):
    """`source` as it is."""

    def __init__(self, source: SourceTensor) -> None:
        self.name, self.shape, self.dtype = source.name, source.shape, source.dtype
        self._source = source

    @property
    def nbytes(self) -> int:
        return self._source.nbytes

    @property
    def stored_type(self) -> str:
        return self._source.stored_type

    def rows(self, start: int, stop: int) -> Array:
        return self._source.rows(start, stop)


class MeasuredTensor(_Wrapped):
    """`source` with what was measured; it is rounded to nearest by that."""

    def __init__(self, source: SourceTensor, measured: Measured) -> None:
        super().__init__(source)
        self._measured = measured

    @property
    def measured(self) -> Measured:
        return self._measured


class CalibratedTensor(_Wrapped):
    """`source` with `levels` int8 [N, K] and `scales` float32 [N, ceil(K / group_size)], which may be mapped files."""

    def __init__(
        self, source: SourceTensor, levels: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], group_size: int
    ) -> None:
        super().__init__(source)
        self._levels, self._scales = levels, scales
        self._group_size = group_size

    @property
    def form(self) -> LevelForm:
        return LevelForm(4, min(self._group_size, self.shape[1]), False)

    def levels(self, start: int, stop: int) -> GroupLevels:
        groups = np.arange(self.shape[1]) // self._group_size
        levels = self._levels[start:stop].astype(np.int32)
        return GroupLevels(levels, self._scales[start:stop], None, groups, self._group_size)
