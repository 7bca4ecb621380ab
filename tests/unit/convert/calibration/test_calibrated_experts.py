"""Experts are rounded for the rows that each of them met."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.convert.calibration.experts import LEAST_ROWS, calibrate_stack
from inflight.convert.calibration.statistics import InputStatistics
from inflight.convert.quantization.round_to_nearest import dequantize
from inflight.convert.quantization.schemes import RECIPES

pytestmark = pytest.mark.unit

Floats = npt.NDArray[np.float32]
SIZE = 32
SCHEMES = ("int4_gptq", "fp8_rowwise")
# The numbers that a level may be.
NUMBERS = {
    "int4_gptq": np.arange(-8, 8, dtype=np.float32),
    "fp8_rowwise": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32),
}


def observed(rows: Floats) -> InputStatistics:
    found = InputStatistics(rows.shape[1], grams=True)
    for part in np.array_split(rows, 3):
        found.add(part)
    return found


@pytest.mark.parametrize("name", SCHEMES)
def test_each_expert_is_rounded_for_its_own_rows(rng: np.random.Generator, name: str) -> None:
    """Rows of an expert lie near a subspace of its own; the levels of another's rows lose more of its outputs."""
    scheme, floats = RECIPES[name], name == "fp8_rowwise"
    count, outputs, inputs = 3, int(rng.integers(20, 40)), int(rng.integers(40, 90))
    stack = rng.standard_normal((count, outputs, inputs)).astype(np.float32)
    axes = rng.standard_normal((count, inputs // 4, inputs)).astype(np.float32)
    rows = [rng.standard_normal((400, len(each))).astype(np.float32) @ each for each in axes]
    rows = [each + 0.05 * rng.standard_normal(each.shape).astype(np.float32) for each in rows]
    met = {expert: observed(each) for expert, each in enumerate(rows)}
    found = calibrate_stack(stack, count, met, SIZE, scheme)
    other = calibrate_stack(stack, count, {expert: met[(expert + 1) % count] for expert in met}, SIZE, scheme)
    nearest = calibrate_stack(stack, count, {}, SIZE, scheme)
    assert (found.nearest, nearest.nearest) == (0, count)
    assert found.chosen.levels.shape == (count * outputs, inputs)
    assert found.chosen.dtype == scheme.weights.dtype
    assert found.chosen.levels.dtype == ("float8_e4m3fn" if floats else "int8")
    assert found.chosen.scales.shape == ((count * outputs,) if floats else (count * outputs, -(-inputs // SIZE)))
    levels, scales = (np.split(each, count) for each in (found.chosen.levels, found.chosen.scales))
    for expert, each in enumerate(rows):
        np.testing.assert_array_equal(
            dequantize(levels[expert], scales[expert], 0 if floats else SIZE), found.rounded[expert]
        )
        lost = [np.square(each @ (kind.rounded[expert] - stack[expert]).T).sum() for kind in (found, other, nearest)]
        assert lost[0] < 0.7 * lost[1] and lost[0] < 0.7 * lost[2], lost


@pytest.mark.parametrize("name", SCHEMES)
def test_an_expert_that_few_rows_met_is_rounded_to_nearest(rng: np.random.Generator, name: str) -> None:
    scheme = RECIPES[name]
    inputs = int(rng.integers(40, 90))
    least = int(np.ceil(LEAST_ROWS * inputs))
    stack = rng.standard_normal((3, 8, inputs)).astype(np.float32)
    rows = rng.standard_normal((least, inputs)).astype(np.float32)
    met = {0: observed(rows), 1: observed(rows[:-1])}
    found, without = (calibrate_stack(stack, 3, each, SIZE, scheme) for each in (met, {}))
    assert found.nearest == 2
    scales = np.split(without.chosen.scales, 3)
    for expert in range(3):
        assert (found.rounded[expert] == without.rounded[expert]).all() == (expert > 0)
        columns = inputs if name == "fp8_rowwise" else SIZE
        scale = np.repeat(scales[expert].reshape(8, -1), columns, axis=1)[:, :inputs]
        choices = scale[..., None] * NUMBERS[name]
        nearest = np.nanmin(np.abs(choices - stack[expert][..., None]), axis=-1)
        error = np.abs(without.rounded[expert] - stack[expert])
        assert (error <= nearest + 1e-6 * np.abs(stack[expert])).all()
