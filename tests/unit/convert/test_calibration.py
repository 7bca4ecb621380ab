"""Calibration: its text, GPTQ and SmoothQuant against their definitions, and checkpoints that are made by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inflight.convert.calibration.gptq import Floats, gptq_levels, group_scales
from inflight.convert.calibration.smoothquant import smoothing_factors
from inflight.convert.calibration.text import STANDARD_LIBRARY, calibration_text
from inflight.convert.quantization.round_to_nearest import dequantize, quantize_groups
from inflight.convert.quantization.schemes import RECIPES
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
    ]
    lines = tmp_path / "records.jsonl"
    lines.write_text("\n".join(json.dumps(record) for record in records))
    whole = tmp_path / "records.json"
    whole.write_text(json.dumps(records))
    expected = ("alone", "a text", "why?\nbecause", "hi\nthere")
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
        ("a.jsonl", "{", "is not valid JSON"),
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
