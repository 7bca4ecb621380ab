"""Calibration: its text, GPTQ and SmoothQuant against their definitions, and checkpoints that are made by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch

from inflight.convert.calibration.awq import awq_factors, awq_levels
from inflight.convert.calibration.gptq import (
    DAMPING,
    Floats,
    float8_scales,
    gptq_float8,
    gptq_levels,
    group_scales,
)
from inflight.convert.calibration.rows import smoothing_factors, stored_row_scale
from inflight.convert.calibration.text import STANDARD_LIBRARY, calibration_text
from inflight.convert.quantization.round_to_nearest import dequantize, quantize_groups
from inflight.convert.quantization.rows import RowRounding, rounded_rows
from inflight.convert.quantization.schemes import RECIPES, RowDtype
from inflight.errors import InflightError

pytestmark = pytest.mark.unit

DIVISORS = RECIPES["int4_gptq"].divisors


def outputs_lost(weight: Floats, rounded: Floats, hessian: Floats) -> float:
    """The mean squared error of the outputs for rows whose mean x x^T is the Hessian."""
    error = (rounded - weight).astype(np.float64)
    return float(np.einsum("nk,kj,nj->", error, hessian.astype(np.float64), error))


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_gptq_loses_less_of_the_outputs_than_rounding_to_nearest(rng: np.random.Generator, group_size: int) -> None:
    count, width = int(rng.integers(3, 60)), int(rng.integers(40, 300))
    weight = rng.standard_normal((count, width)).astype(np.float32)
    mixed = rng.standard_normal((width, width)) * np.exp(rng.standard_normal(width))
    rows = (rng.standard_normal((4 * width, width)) @ mixed).astype(np.float32)
    hessian = (rows.T @ rows / len(rows)).astype(np.float32)
    levels, scales = gptq_levels(weight, hessian, group_size, DIVISORS)
    assert levels.shape == weight.shape and levels.min() >= -8 and levels.max() <= 7
    assert scales.shape == (count, -(-width // group_size))
    nearest = dequantize(*quantize_groups(weight, RECIPES["int4_wo"].divisors, group_size), group_size)
    found = outputs_lost(weight, dequantize(levels, scales, group_size), hessian)
    assert found < 0.8 * outputs_lost(weight, nearest, hessian)


def test_gptq_of_independent_inputs_is_rounding_to_nearest(rng: np.random.Generator) -> None:
    """A diagonal Hessian leaves nothing to make up for."""
    weight = rng.standard_normal((7, 90)).astype(np.float32)
    hessian = np.diag(rng.uniform(0.1, 3, 90)).astype(np.float32)
    levels, scales = gptq_levels(weight, hessian, 32, DIVISORS)
    by_column = np.repeat(scales, 32, axis=1)[:, :90]
    np.testing.assert_array_equal(levels, np.clip(np.rint(weight / by_column), -8, 7))


def gptq_by_its_definition(
    weight: Floats, hessian: Floats, rounded: Callable[[npt.NDArray[np.float64], int], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Optimal brain quantization in the order of the inputs' power: after each column its own row and column leave the
    inverse Hessian. `rounded` gives the numbers nearest to a column.
    """
    rest, damped = weight.astype(np.float64), hessian.astype(np.float64)
    damped += DAMPING * np.diag(damped).mean() * np.eye(len(damped))
    inverse, found = np.linalg.inv(damped), np.empty_like(rest)
    for column in np.argsort(-np.diag(hessian), kind="stable"):
        found[:, column] = rounded(rest[:, column], int(column))
        error = (rest[:, column] - found[:, column]) / inverse[column, column]
        rest -= np.outer(error, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return found


def correlated(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A weight [N, K] of odd sizes, and rows with outliers in some inputs."""
    count, width = int(rng.integers(3, 60)), int(rng.integers(40, 300))
    weight = (rng.standard_normal((count, width)) * np.exp(rng.standard_normal((count, 1)))).astype(np.float32)
    mixed = rng.standard_normal((width, width)) * np.exp(rng.standard_normal(width))
    return weight, (rng.standard_normal((4 * width, width)) @ mixed).astype(np.float32)


def mean_square(rows: Floats) -> Floats:
    return (rows.T @ rows / np.float32(len(rows))).astype(np.float32)


def nearest_e4m3(values: npt.NDArray[np.float64], scales: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From the table of all E4M3 numbers."""
    table = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    table = np.concatenate([-table[:0:-1], table])
    scaled = values / scales
    after = np.clip(np.searchsorted(table, scaled), 1, len(table) - 1)
    lower, upper = table[after - 1], table[after]
    nearest: npt.NDArray[np.float64] = np.where(scaled - lower < upper - scaled, lower, upper) * scales
    return nearest


@pytest.mark.parametrize("shared", [True, False])
def test_gptq_to_8_bit_floats_is_optimal_brain_quantization(rng: np.random.Generator, shared: bool) -> None:
    weight, rows = correlated(rng)
    hessian, divisors = mean_square(rows), RECIPES["fp8_tensorwise"].divisors
    scales = float8_scales(weight, np.diag(hessian), divisors, shared)
    assert scales.shape == ((1,) if shared else (len(weight),))
    levels = gptq_float8(weight, hessian, scales)
    assert levels.dtype == ml_dtypes.float8_e4m3fn and levels.shape == weight.shape
    wide = np.broadcast_to(scales, len(weight)).astype(np.float64)
    expected = gptq_by_its_definition(weight, hessian, lambda column, _: nearest_e4m3(column, wide))
    found = levels.astype(np.float32) * scales[:, None]
    # Sums in another order round a few columns to the other side, and all that come after those.
    assert np.mean(np.isclose(found, expected, rtol=1e-4, atol=0)) > 0.9
    nearest = nearest_e4m3(weight.astype(np.float64), wide[:, None])
    assert outputs_lost(weight, found, hessian) < 0.8 * outputs_lost(weight, nearest.astype(np.float32), hessian)


@pytest.mark.parametrize("shared", [True, False])
def test_the_scale_of_8_bit_floats_is_the_one_that_loses_least(rng: np.random.Generator, shared: bool) -> None:
    weight, rows = correlated(rng)
    power = np.square(rows).mean(axis=0)
    divisors = RECIPES["fp8_rowwise"].divisors
    scales = float8_scales(weight, power, divisors, shared)

    def lost(scale: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        rounded = nearest_e4m3(weight.astype(np.float64), scale[:, None])
        each = np.square(rounded - weight) @ power.astype(np.float64)
        whole: npt.NDArray[np.float64] = each.sum(keepdims=True) if shared else each
        return whole

    greatest = np.abs(weight).max(axis=None if shared else 1, keepdims=True).reshape(-1).astype(np.float64)
    least = np.min([lost(greatest / divisor) for divisor in divisors], axis=0)
    np.testing.assert_allclose(lost(scales.astype(np.float64)), least, rtol=1e-3)
    assert float8_scales(np.zeros_like(weight), power, divisors, shared) == pytest.approx(1 / (448 * 512))


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_awq_scales_and_clips_by_what_the_outputs_lose(rng: np.random.Generator, group_size: int) -> None:
    weight, rows = correlated(rng)
    hessian, magnitudes = mean_square(rows), np.abs(rows).mean(axis=0)
    factors = awq_factors(weight, hessian, magnitudes, group_size, "bfloat16")
    np.testing.assert_array_equal(factors, factors.astype(ml_dtypes.bfloat16).astype(np.float32))

    def rounded(factors: Floats) -> Floats:
        return dequantize(*quantize_groups(weight / factors, (7.0,), group_size), group_size)

    def lost(factors: Floats) -> float:
        return float(np.square((rows * factors) @ rounded(factors).T - rows @ weight.T).mean())

    tried = []
    for power in range(11):
        scale = magnitudes.astype(np.float64) ** (power / 10)
        tried.append(lost((np.sqrt(scale.max() * scale.min()) / scale).astype(ml_dtypes.bfloat16).astype(np.float32)))
    # The last bit of a factor moves a weight or two to other levels.
    assert lost(factors) <= min(tried) * 1.1
    scaled = hessian * np.outer(factors, factors)
    levels, scales = awq_levels(weight / factors, scaled, group_size, RECIPES["int4_awq"].divisors)
    assert levels.min() >= -8 and levels.max() <= 7 and scales.shape == (len(weight), -(-weight.shape[1] // group_size))
    start = int(rng.integers(0, scales.shape[1])) * group_size
    inputs = slice(start, start + group_size)
    part, mine = (weight / factors)[:, inputs], (rows * factors)[:, inputs].astype(np.float64)

    def share_lost(scale: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        error = np.clip(np.rint(part / scale[:, None]), -8, 7) * scale[:, None] - part
        lost: npt.NDArray[np.float64] = np.square(mine @ error.T).mean(axis=0)
        return lost

    chosen = share_lost(scales[:, start // group_size].astype(np.float64))
    plain = share_lost((np.abs(part).max(axis=1) / np.float32(7)).astype(np.float16).astype(np.float64))
    assert (chosen <= plain * 1.05).all()
    np.testing.assert_array_equal(
        levels[:, inputs], np.clip(np.rint(part / scales[:, start // group_size, None]), -8, 7)
    )


def test_the_stored_scale_of_rows_is_the_one_that_the_outputs_notice_least(rng: np.random.Generator) -> None:
    rows = (rng.standard_normal((20, 33)) * np.exp(2 * rng.standard_normal(33))).astype(np.float32)
    rows[:, 7] = 300 + rng.standard_normal(20)  # what every row has can fall onto a level
    weight = rng.standard_normal((9, 33)).astype(np.float32)
    greatest = float(np.abs(rows).max()) * 1.5

    def lost(scale: float) -> float:
        levels = (torch.from_numpy(rows) / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
        each = np.square(levels.numpy() - rows).astype(np.float64).mean(axis=0)
        return float(each @ np.square(weight.astype(np.float64)).sum(axis=0))

    scale = stored_row_scale(rows, greatest, np.square(weight).sum(axis=0))
    assert greatest / 448 < scale <= 2 * greatest / 448 * 1.0001
    assert lost(scale) <= 1.0001 * min(lost(greatest / 448 * 2 ** (step / 32)) for step in range(1, 33))
    assert lost(scale) < 0.9 * np.mean([lost(greatest / 448 * factor) for factor in np.linspace(1, 2, 50)])
    assert stored_row_scale(np.zeros_like(rows), 0.0, np.ones(33, np.float32)) > 0


@pytest.mark.parametrize("dtype", ["int8", "int16", "float8_e4m3fn"])
def test_rows_are_rounded_by_their_own_scale_or_a_stored_one(rng: np.random.Generator, dtype: RowDtype) -> None:
    rows = (rng.standard_normal((5, 33)) * np.exp(4 * rng.standard_normal((5, 1)))).astype(np.float32)
    rows[2] = 0
    greatest = {"int8": 127, "int16": 32639, "float8_e4m3fn": 448}[dtype]
    kind = torch.float8_e4m3fn if dtype == "float8_e4m3fn" else None
    stored = float(rng.uniform(0.01, 0.1))
    for scale in (None, stored):
        wide = torch.from_numpy(rows)
        own = wide.abs().amax(-1, keepdim=True).clamp(min=1e-30) / greatest
        divided = wide / (own if scale is None else scale)
        least = -128 if dtype == "int8" else -greatest
        levels = divided.clamp(least, greatest)
        expected = (levels.to(kind).float() if kind else levels.round()) * (own if scale is None else scale)
        found = rounded_rows(rows, RowRounding(dtype, scale))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-30)
    limited = rounded_rows(rows, RowRounding(dtype, None, (-0.5, 0.25)))
    np.testing.assert_array_equal(limited, rounded_rows(np.clip(rows, -0.5, 0.25), RowRounding(dtype)))


def test_a_scale_may_be_negative_and_is_a_float16_number(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((20, 64)).astype(np.float32)
    weight[:, 5] = 9.0
    weight[:, 40] = -9.0
    scales = group_scales(weight, np.ones(64, np.float32), 32, DIVISORS)
    assert (scales[:, 0] < 0).any()
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))
    tiny = group_scales(weight * np.float32(1e-7), np.ones(64, np.float32), 32, DIVISORS)
    assert np.isfinite(tiny).all() and (tiny != 0).all()


def test_gptq_takes_inputs_and_weights_that_are_zero(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((5, 70)).astype(np.float32)
    weight[2] = 0
    rows = rng.standard_normal((200, 70)).astype(np.float32)
    rows[:, 10:20] = 0
    levels, scales = gptq_levels(weight, rows.T @ rows / np.float32(200), 32, DIVISORS)
    assert np.isfinite(scales).all() and not (levels[2] * np.repeat(scales[2], 32)[:70]).any()


def test_smoothing_makes_inputs_and_weights_alike(rng: np.random.Generator) -> None:
    rows, weights = (np.exp(rng.standard_normal(40) * 3).astype(np.float32) for _ in range(2))
    factors = smoothing_factors(rows, weights, 0.5)
    np.testing.assert_allclose(rows * factors, weights / factors, rtol=1e-4)
    np.testing.assert_allclose(smoothing_factors(rows, weights, 1.0) * rows, 1.0, rtol=1e-5)
    rows[3] = weights[4] = 0
    np.testing.assert_array_equal(smoothing_factors(rows, weights, 0.5)[3:5], 1.0)


def test_records_and_plain_text_are_read(tmp_path: Path) -> None:
    records = [
        "alone",
        {"text": "a text"},
        {"question": "why?", "answer": "because"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]},
        {"messages": [{"content": [{"type": "text", "text": "of "}, {"type": "image_url"}, {"text": "parts"}]}]},
        # What ends a line in Unicode does not end one of the file.
        {"text": "a\u2028b\u2029c\x85d\x1ce"},
    ]
    lines = tmp_path / "records.jsonl"
    lines.write_text("\r\n".join(json.dumps(record, ensure_ascii=False) for record in records), newline="")
    whole = tmp_path / "records.json"
    whole.write_text(json.dumps(records))
    expected = ("alone", "a text", "why?\nbecause", "hi\nthere", "of parts", "a\u2028b\u2029c\x85d\x1ce")
    assert calibration_text(lines).documents == calibration_text(whole).documents == expected
    plain = tmp_path / "book.txt"
    plain.write_text("once upon a time")
    assert calibration_text(plain).documents == ("once upon a time",)
    library = calibration_text(None)
    assert library.name == STANDARD_LIBRARY and sum(map(len, library.documents)) > 300_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x"}\n{"words": 3}', "record 2, is no text"),
        ("a.jsonl", '"x"\n\n{', "is not valid JSON: line 3: "),
        ("a.jsonl", '"\\ud800"', "line 1: a string has half a surrogate pair"),
        ("a.json", "[" * 100_000, "is not valid JSON: it has more than"),
        ("a.jsonl", '{"messages": 3}', "record 1, is no text"),
        ("a.jsonl", '{"text": null}', "record 1, is no text"),
        ("a.jsonl", '{"messages": [{"content": null}, 3]}', "record 1, is no text"),
        ("a.jsonl", f'{{"token_ids": [{10**30}]}}', "record 1, is no text"),
        ("a.jsonl", "", "no text to calibrate on"),
        ("a.json", '{"text": "x"}', "holds no list"),
        ("a.txt", " \n", "no text to calibrate on"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read as text"),
    ],
)
def test_a_text_that_is_none_is_refused(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InflightError, match=said):
        calibration_text(path)


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InflightError, match="cannot be read"):
        calibration_text(tmp_path / "absent.txt")
