"""Scales of groups as whole multiples of one unit a row."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.convert.quantization.multiples import MOST_MULTIPLE, Floats, split_multiples, whole_multiples
from inflight.convert.quantization.round_to_nearest import dequantize, quantize, quantize_groups
from inflight.convert.quantization.schemes import RECIPES

pytestmark = pytest.mark.unit


def test_chosen_scales_split_into_multiples_and_units_to_the_bit(rng: np.random.Generator) -> None:
    wanted = (rng.standard_normal((37, int(rng.integers(1, 40)))) * 10.0 ** rng.integers(-6, 3, (37, 1))).astype(
        np.float32
    )
    wanted[rng.random(wanted.shape) < 0.2] = 0
    wanted[5] = 0
    scales = whole_multiples(wanted, lambda scales: np.square(scales - wanted))
    split = split_multiples(scales)
    assert split is not None
    multiples, units = split
    assert np.abs(multiples).max() <= MOST_MULTIPLE
    np.testing.assert_array_equal(multiples * units[:, None], scales)
    assert (np.sign(scales) * np.sign(wanted) >= 0).all()
    assert (np.abs(scales - wanted) <= np.abs(wanted).max(axis=1, keepdims=True) / 4).all()
    normal = np.abs(scales) > np.finfo(np.float16).tiny
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32)[normal], scales[normal])


def test_scales_without_a_common_unit_do_not_split(rng: np.random.Generator) -> None:
    scales: Floats = np.outer(rng.uniform(0.1, 1, 9), rng.integers(1, MOST_MULTIPLE + 1, 20)).astype(np.float32)
    assert split_multiples(np.float32(0.375) * np.array([[15, 7], [0, 0]], np.float32)) is not None
    assert split_multiples(np.float32(0.375) * np.array([[16, 7], [0, 0]], np.float32)) is None
    scales[3] = rng.uniform(0.1, 1, 20)
    assert split_multiples(scales) is None


@pytest.mark.parametrize("name", ["int4_wo", "int4_w4a8"])
def test_rounding_with_multiples_loses_little_more(name: str, rng: np.random.Generator) -> None:
    rows = (rng.standard_normal((64, 320)) * rng.uniform(0.2, 1, (64, 320))).astype(np.float32)
    levels, scales = quantize(rows, RECIPES[name], 32)
    assert split_multiples(scales) is not None
    free = dequantize(*quantize_groups(rows, RECIPES[name].divisors, 32), 32)
    lost, least = (np.square(each - rows).mean() for each in (dequantize(levels, scales, 32), free))
    assert lost < 1.1 * least
