"""What calibration learns of the rows that a matrix multiplies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.reference_decoder import DecoderWeights, TensorReader

Floats = npt.NDArray[np.float32]


class InputStatistics:
    """Sums over rows x [K]: `greatest` float32 [K] the magnitudes, and of x x^T float32 [K, K] if `grams`."""

    def __init__(self, width: int, grams: bool) -> None:
        self.greatest: Floats = np.zeros(width, np.float32)
        self._gram: Floats | None = np.zeros((width, width), np.float32) if grams else None
        self._count = 0

    def add(self, rows: Floats) -> None:
        """Rows [count, K]."""
        if self._gram is not None:
            self._gram += rows.T @ rows
        np.maximum(self.greatest, np.abs(rows).max(axis=0, initial=0), out=self.greatest)
        self._count += len(rows)

    @property
    def hessian(self) -> Floats:
        """The mean of x x^T: half the second derivative of the squared error of an output by its weights."""
        assert self._gram is not None, "made without grams"
        mean: Floats = self._gram / np.float32(max(1, self._count))
        return mean


class ObservedWeights(DecoderWeights):
    """The weights of a layer, each matrix read once. `replaced` stands in for some of the stored ones; without it, what
    the products are given is noted in `statistics`, by module: mlp.gate has those of mlp.fc, which reads the same rows.
    """

    def __init__(
        self, tensors: TensorReader, prefix: str, *, replaced: Mapping[str, Floats] | None = None, grams: bool = False
    ) -> None:
        super().__init__(tensors, prefix, np.float32)
        self._matrices: dict[str, Floats] = dict(replaced or {})
        self._observing, self._grams = replaced is None, grams
        self.statistics: dict[str, InputStatistics] = {}

    def has(self, module: str) -> bool:
        """True when the layer has used this matrix."""
        return module in self._matrices

    def matrix(self, module: str) -> Floats:
        if module not in self._matrices:
            self._matrices[module] = super().matrix(module)
        return self._matrices[module]

    def linear(self, x: Floats, module: str, bias: bool) -> Floats:
        if self._observing and module != "mlp.gate":
            if module not in self.statistics:
                self.statistics[module] = InputStatistics(x.shape[-1], self._grams)
            self.statistics[module].add(x)
        result: Floats = super().linear(x, module, bias)
        return result
