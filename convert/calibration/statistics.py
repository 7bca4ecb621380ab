"""What calibration learns of the rows that a matrix multiplies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.reference_decoder import DecoderWeights, TensorReader

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class InputStatistics:
    """Sums over rows x [K]: `gram` float32 [K, K] of x x^T, `greatest` float32 [K] the magnitudes, `count` of rows."""

    width: int
    count: int = 0
    gram: Floats = field(init=False)
    greatest: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.gram = np.zeros((self.width, self.width), np.float32)
        self.greatest = np.zeros(self.width, np.float32)

    def add(self, rows: Floats) -> None:
        """Rows [count, K]."""
        self.gram += rows.T @ rows
        np.maximum(self.greatest, np.abs(rows).max(axis=0, initial=0), out=self.greatest)
        self.count += len(rows)

    @property
    def hessian(self) -> Floats:
        """The mean of x x^T: half the second derivative of the squared error of an output by its weights."""
        mean: Floats = self.gram / np.float32(max(1, self.count))
        return mean


class ObservedWeights(DecoderWeights):
    """Weights of a layer that note what their products are given, each matrix read once. `replaced` stands in for some
    of the stored ones. `statistics` are by module; mlp.gate has those of mlp.fc, which multiplies the same rows.
    """

    def __init__(self, tensors: TensorReader, prefix: str, replaced: dict[str, Floats] | None = None) -> None:
        super().__init__(tensors, prefix, np.float32)
        self._matrices: dict[str, Floats] = dict(replaced or {})
        self.statistics: dict[str, InputStatistics] = {}
        self.observing = replaced is None

    def matrix(self, module: str) -> Floats:
        if module not in self._matrices:
            self._matrices[module] = super().matrix(module)
        return self._matrices[module]

    def linear(self, x: Floats, module: str, bias: bool) -> Floats:
        if self.observing and module != "mlp.gate":
            self.statistics.setdefault(module, InputStatistics(x.shape[-1])).add(x)
        result: Floats = super().linear(x, module, bias)
        return result
