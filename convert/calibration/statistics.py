"""What calibration learns of the rows that a matrix multiplies."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.expert_stacks import Stack
from inflight.convert.checkpoint.reference.decoder import DecoderWeights, TensorReader
from inflight.convert.quantization.rows import RowRounding, rounded_rows

Floats = npt.NDArray[np.float32]

# Products that read the same rows as another, and share what is made of them.
SAME_ROWS = {"mlp.gate": "mlp.fc", "mlp.shared_expert.gate": "mlp.shared_expert.fc"}

# Of so many rows one is kept.
_SAMPLED = 32


class InputStatistics:
    """Of rows x [K]: `greatest` float32 [K], the greatest magnitudes; and if `grams`, a sample of rows, and the means
    of |x| and x x^T.
    """

    def __init__(self, width: int, grams: bool) -> None:
        self.greatest: Floats = np.zeros(width, np.float32)
        self._magnitudes: Floats = np.zeros(width, np.float32)
        self._gram: Floats | None = np.zeros((width, width), np.float32) if grams else None
        self._sample: list[Floats] = []
        self._count = 0

    def add(self, rows: Floats) -> None:
        """Rows [count, K]."""
        magnitudes = np.abs(rows)
        if self._gram is not None:
            self._gram += rows.T @ rows
            self._magnitudes += magnitudes.sum(axis=0)
            self._sample.append(rows[::_SAMPLED].copy())
        np.maximum(self.greatest, magnitudes.max(axis=0, initial=0), out=self.greatest)
        self._count += len(rows)

    @property
    def count(self) -> int:
        """How many rows there were."""
        return self._count

    @property
    def sample(self) -> Floats:
        """Some of the rows, [count, K]."""
        return np.concatenate(self._sample)

    @property
    def magnitudes(self) -> Floats:
        """The mean of |x| float32 [K]."""
        mean: Floats = self._magnitudes / np.float32(max(1, self._count))
        return mean

    @property
    def hessian(self) -> Floats:
        """The mean of x x^T: half the second derivative of the squared error of an output by its weights."""
        assert self._gram is not None, "made without grams"
        mean: Floats = self._gram / np.float32(max(1, self._count))
        return mean


class LayerWeights(DecoderWeights):
    """The weights below a prefix as float32, each matrix and each stack of experts read once. `replaced` and `stacks`
    stand in for some of the stored ones; rows are multiplied by what `factors` has for them, and rounded as `roundings`
    says. All by the short names of modules.
    """

    def __init__(
        self,
        tensors: TensorReader,
        prefix: str,
        replaced: Mapping[str, Floats] | None = None,
        roundings: Mapping[str, RowRounding] | None = None,
        factors: Mapping[str, Floats] | None = None,
        stacks: Mapping[str, Stack] | None = None,
    ) -> None:
        super().__init__(tensors, prefix, np.float32)
        self._factors = factors or {}
        self._matrices: dict[str, Floats] = dict(replaced or {})
        self._stacks: dict[str, Stack] = dict(stacks or {})
        self._roundings = roundings or {}

    def has(self, module: str) -> bool:
        """True when the layer has used this matrix."""
        return module in self._matrices

    def matrix(self, module: str) -> Floats:
        if module not in self._matrices:
            self._matrices[module] = super().matrix(module)
        return self._matrices[module]

    def stack(self, module: str) -> Stack:
        if module not in self._stacks:
            self._stacks[module] = super().stack(module)
        return self._stacks[module]

    def rows(self, x: Floats, module: str) -> Floats:
        found: Floats = super().rows(x, module)
        if module in self._factors:
            found = found * self._factors[module]
        return self._rounded(found, module)

    def expert_rows(self, x: Floats, module: str, expert: int) -> Floats:
        return self._rounded(x, module)

    def _rounded(self, x: Floats, module: str) -> Floats:
        rounding = self._roundings.get(module)
        return x if rounding is None else rounded_rows(x, rounding)


class ObservedWeights(LayerWeights):
    """What the products of a layer are given is noted in `statistics`, by module: mlp.gate has those of mlp.fc,
    which reads the same rows. `of_experts` has that of each expert of the modules `stacks`, by module and number, if
    any row met it. `greatest_cached`: the greatest magnitudes of the layer's keys and values.
    """

    def __init__(self, tensors: TensorReader, prefix: str, grams: bool, stacks: Collection[str] = ()) -> None:
        super().__init__(tensors, prefix)
        self._grams, self._observed = grams, stacks
        self.statistics: dict[str, InputStatistics] = {}
        self.of_experts: dict[tuple[str, int], InputStatistics] = {}
        self.greatest_cached = (0.0, 0.0)

    def cached(self, keys: Floats, values: Floats) -> None:
        key, value = (float(np.abs(each).max(initial=0)) for each in (keys, values))
        self.greatest_cached = (max(self.greatest_cached[0], key), max(self.greatest_cached[1], value))

    def rows(self, x: Floats, module: str) -> Floats:
        if module not in SAME_ROWS:
            if module not in self.statistics:
                self.statistics[module] = InputStatistics(x.shape[-1], self._grams)
            self.statistics[module].add(x)
        return super().rows(x, module)

    def expert_rows(self, x: Floats, module: str, expert: int) -> Floats:
        if module in self._observed:
            met = self.of_experts.setdefault((module, expert), InputStatistics(x.shape[-1], self._grams))
            met.add(x)
        return super().expert_rows(x, module, expert)
