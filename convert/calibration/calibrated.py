"""Matrices of the source with what calibration chose for them."""

from __future__ import annotations

from inflight.convert.source.tensor import Array, ChosenLevels, Measured, SourceTensor


class CalibratedTensor(SourceTensor):
    """`source` with what was measured of its rows, and the levels that were chosen, which may be mapped files."""

    def __init__(self, source: SourceTensor, measured: Measured | None, chosen: ChosenLevels | None) -> None:
        self.name, self.shape, self.dtype = source.name, source.shape, source.dtype
        self._source, self._measured, self._chosen = source, measured, chosen

    @property
    def nbytes(self) -> int:
        return self._source.nbytes

    @property
    def stored_type(self) -> str:
        return self._source.stored_type

    @property
    def work_bytes(self) -> int:
        return self._source.work_bytes

    def rows(self, start: int, stop: int) -> Array:
        return self._source.rows(start, stop)

    @property
    def measured(self) -> Measured | None:
        return self._measured

    @property
    def chosen(self) -> ChosenLevels | None:
        return self._chosen
