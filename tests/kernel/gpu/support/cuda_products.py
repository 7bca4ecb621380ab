"""Random int8, int4 and float8 weights, and products of few rows with them, wherever the kernel runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.spec import Tuning, Variant
from tests.kernel.gpu.support.cuda_launch import SPECS  # noqa: F401  (before a kernel is imported)
from tests.oracles.gpu.weight_only import float8_numbers, pack_int4, weight_only

from inflight.build.gpu_kernels.kernels.weight_only import product_variant, workspace  # isort: skip

Array: TypeAlias = npt.NDArray[Any]
Run: TypeAlias = Callable[[str, Variant, "Mapping[str, Array | int]", "Mapping[str, int]"], None]

KINDS = [("int8", 0), ("float8", 0), ("int4", 32), ("int4", 96), ("int4", 128)]


class Weights:
    """Random weights: as they are stored, and as numbers."""

    def __init__(self, rng: np.random.Generator, kind: str, n: int, k: int, group_size: int) -> None:
        self.kind, self.n, self.k, self.group_size = kind, n, k, group_size
        if kind == "int4":
            self.numbers: Array = rng.integers(-8, 8, (n, k)).astype(np.int8)
            self.stored = pack_int4(self.numbers)
        else:
            self.stored = rng.integers(-128, 128, (n, k)).astype(np.int8)
            if kind == "float8":
                self.stored[(self.stored & 0x7F) == 0x7F] = 0  # NaN
            self.numbers = float8_numbers(self.stored) if kind == "float8" else self.stored
        scales = (-(-k // group_size), n) if group_size else (n,)
        self.scale = (rng.random(scales) + 0.1).astype(np.float32)
        self.bias = rng.standard_normal(n).astype(np.float32)

    def variant(self, x: str, *, has_bias: bool) -> Variant:
        return product_variant(self.n, self.k, self.kind, group_size=self.group_size, has_bias=has_bias, x=x)

    def times(self, run: Run, x: Array, variant: Variant, tuning: Tuning) -> Array:
        """float32 [rows, n] of `variant`, with the workspace of `tuning`."""
        sums, tiles = workspace(variant, tuning, len(x))
        arrays = {
            "x": x,
            "weight": self.stored,
            "weight_scale": self.scale,
            "bias": self.bias,
            "y": np.zeros((len(x), self.n), np.float32),
            "partial": np.full(sums, np.nan, np.float32),
            "arrived": np.zeros(tiles, np.int32),
        }
        run("weight_only", variant, {**arrays, "rows": len(x)}, {"rows": len(x), "lines": len(self.stored)})
        assert not arrays["arrived"].any(), "the next launch counts from zero"
        return arrays["y"]


def assert_product(y: Array, x: Array, weights: Weights, *, has_bias: bool = False) -> None:
    """The error of float32 sums: it grows with the magnitude of what is summed."""
    bias = weights.bias if has_bias else None
    exact = weight_only(x, weights.numbers, weights.scale, bias, group_size=weights.group_size)
    sizes = (np.abs(x), np.abs(weights.numbers.astype(np.float64)), weights.scale)
    magnitude = weight_only(*sizes, None, group_size=weights.group_size)
    assert (np.abs(y - exact) <= 2e-6 * (magnitude + 1)).all()
