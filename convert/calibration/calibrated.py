"""A matrix of the source with the levels that calibration chose for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inflight.convert.source.tensor import Array, GroupLevels, SourceTensor


class CalibratedTensor(SourceTensor):
    """`source` with `levels` int8 [N, K] and `scales` float32 [N, ceil(K / group_size)], which may be mapped files."""

    def __init__(
        self, source: SourceTensor, levels: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], group_size: int
    ) -> None:
        self.name, self.shape, self.dtype = source.name, source.shape, source.dtype
        self._source, self._levels, self._scales = source, levels, scales
        self._group_size = group_size

    @property
    def nbytes(self) -> int:
        return self._source.nbytes

    def rows(self, start: int, stop: int) -> Array:
        return self._source.rows(start, stop)

    def levels(self, start: int, stop: int) -> GroupLevels:
        groups = np.arange(self.shape[1]) // self._group_size
        levels = self._levels[start:stop].astype(np.int32)
        return GroupLevels(levels, self._scales[start:stop], None, groups, self._group_size)
