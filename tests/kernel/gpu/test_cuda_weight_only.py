"""Products of few rows with int8, int4 and float8 weights of the cuda target, interpreted, against float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.kernel.gpu.support.cuda_products import KINDS, Weights, assert_product
from tests.oracles.gpu.weight_only import pack_int4

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]


def times(weights: Weights, x: Array, *, has_bias: bool = False, splits: int = 1) -> Array:
    """In float16: the interpreter does not widen to bfloat16."""
    variant = weights.variant("fp16", has_bias=has_bias)
    tuning = SPECS["weight_only"].tune(90, variant)
    tuning = replace(tuning, constants={**tuning.constants, "splits": splits})
    return weights.times(partial(interpret, tuned=tuning.constants), x, variant, tuning)


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
@pytest.mark.parametrize("rows", [1, 3, 16, 17])
def test_products_are_those_of_float64(rng: np.random.Generator, kind: str, group_size: int, rows: int) -> None:
    n, k = int(rng.integers(1, 200)), int(rng.integers(1, 600))
    weights = Weights(rng, kind, n, k, group_size)
    x = rng.standard_normal((rows, k)).astype(np.float16)
    has_bias = bool(rng.integers(2))
    assert_product(times(weights, x, has_bias=has_bias), x, weights, has_bias=has_bias)


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
def test_the_inner_dimension_may_be_split(rng: np.random.Generator, kind: str, group_size: int) -> None:
    weights = Weights(rng, kind, 131, 1000, group_size)
    x = rng.standard_normal((18, 1000)).astype(np.float16)
    for splits in (2, 5, 8):
        assert_product(times(weights, x, has_bias=True, splits=splits), x, weights, has_bias=True)


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
def test_a_row_is_the_same_in_any_company(rng: np.random.Generator, kind: str, group_size: int) -> None:
    weights = Weights(rng, kind, 96, 512, group_size)
    x = rng.standard_normal((20, 512)).astype(np.float16)
    together = times(weights, x, splits=3)
    for row in (0, 7, 19):
        assert np.array_equal(times(weights, x[row : row + 1].copy(), splits=3)[0], together[row])


def test_int4_levels_are_packed_as_checkpoints_have_them(rng: np.random.Generator) -> None:
    levels = rng.integers(-8, 8, (5, 7)).astype(np.int8)
    packed = pack_int4(levels)
    low, high = (packed << 4).astype(np.int8) >> 4, packed >> 4
    assert packed.shape == (3, 7)
    assert np.array_equal(low, levels[0::2]) and np.array_equal(high[:2], levels[1::2]) and not high[2].any()
