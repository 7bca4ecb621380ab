"""Products of few rows with int8, int4 and float8 weights of the cuda target, interpreted, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.targets.cuda.references.weight_only import float8_numbers, pack_int4, weight_only
from inflight.build.targets.cuda.spec import Tuning
from tests.kernel.cuda_launch import SPECS, interpret

from inflight.build.targets.cuda.kernels.weight_only import product_variant, workspace  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]


def replace_splits(tuning: Tuning, splits: int) -> Tuning:
    return replace(tuning, constants={**tuning.constants, "splits": splits})


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

    def times(self, x: Array, *, has_bias: bool = False, splits: int = 1) -> Array:
        """float32 [rows, n]."""
        # float16: the interpreter does not multiply bfloat16.
        variant = product_variant(
            self.n, self.k, self.kind, group_size=self.group_size, has_bias=has_bias, x="fp16", block_rows=16
        )
        lines = len(self.stored)
        tuning = replace_splits(SPECS["weight_only"].tune(90, variant), splits)
        sums, tiles = workspace(variant, tuning, len(x))
        y = np.zeros((len(x), self.n), np.float32)
        arrived = np.zeros(tiles, np.int32)
        arguments = {
            "x": x,
            "weight": self.stored,
            "weight_scale": self.scale,
            "bias": self.bias,
            "y": y,
            "partial": np.full(sums, np.nan, np.float32),
            "arrived": arrived,
            "rows": len(x),
        }
        interpret("weight_only", variant, arguments, {"rows": len(x), "lines": lines}, tuning.constants)
        assert not arrived.any(), "the next launch counts from zero"
        return y


def assert_product(y: Array, x: Array, weights: Weights, *, has_bias: bool = False) -> None:
    """The error of float32 sums: it grows with the magnitude of what is summed."""
    bias = weights.bias if has_bias else None
    exact = weight_only(x, weights.numbers, weights.scale, bias, group_size=weights.group_size)
    sizes = (np.abs(x), np.abs(weights.numbers.astype(np.float64)), weights.scale)
    magnitude = weight_only(*sizes, None, group_size=weights.group_size)
    assert (np.abs(y - exact) <= 2e-6 * (magnitude + 1)).all()


KINDS = [("int8", 0), ("float8", 0), ("int4", 32), ("int4", 128)]


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
@pytest.mark.parametrize("rows", [1, 3, 16, 17])
def test_products_are_those_of_float64(rng: np.random.Generator, kind: str, group_size: int, rows: int) -> None:
    n, k = int(rng.integers(1, 200)), int(rng.integers(1, 600))
    weights = Weights(rng, kind, n, k, group_size)
    x = rng.standard_normal((rows, k)).astype(np.float16)
    has_bias = bool(rng.integers(2))
    assert_product(weights.times(x, has_bias=has_bias), x, weights, has_bias=has_bias)


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
def test_the_inner_dimension_may_be_split(rng: np.random.Generator, kind: str, group_size: int) -> None:
    weights = Weights(rng, kind, 131, 1000, group_size)
    x = rng.standard_normal((18, 1000)).astype(np.float16)
    for splits in (2, 5, 8):
        assert_product(weights.times(x, has_bias=True, splits=splits), x, weights, has_bias=True)


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
def test_a_row_is_the_same_in_any_company(rng: np.random.Generator, kind: str, group_size: int) -> None:
    weights = Weights(rng, kind, 96, 512, group_size)
    x = rng.standard_normal((20, 512)).astype(np.float16)
    together = weights.times(x, splits=3)
    for row in (0, 7, 19):
        assert np.array_equal(weights.times(x[row : row + 1].copy(), splits=3)[0], together[row])


def test_int4_levels_are_packed_as_checkpoints_have_them(rng: np.random.Generator) -> None:
    levels = rng.integers(-8, 8, (5, 7)).astype(np.int8)
    packed = pack_int4(levels)
    low, high = (packed << 4).astype(np.int8) >> 4, packed >> 4
    assert packed.shape == (3, 7)
    assert np.array_equal(low, levels[0::2]) and np.array_equal(high[:2], levels[1::2]) and not high[2].any()
