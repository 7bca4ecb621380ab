"""Embedding, row functions and LayerNorm of the cuda target, interpreted and on a GPU, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernel.gpu.support.cuda_gpu import run_on_gpu
from tests.kernel.gpu.support.cuda_launch import interpret
from tests.oracles.gpu import linear as reference

from inflight.build.gpu_kernels.kernels.activation import ACTIVATION_KINDS  # isort: skip
from inflight.build.gpu_kernels.kernels.gather_rows import gather_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.layer_norm import layer_norm_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.rms_norm import norm_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.row_functions import function_variant  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
RUNS = [interpret, run_on_gpu]


def random_rows(rng: np.random.Generator, rows: int) -> Array:
    return (rng.standard_normal((rows, int(rng.integers(1, 1500)))) * 3).astype(np.float32)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("factor", [1.0, 48.0])
def test_rows_are_gathered_and_scaled(rng: np.random.Generator, run: Any, factor: float) -> None:
    table = random_rows(rng, 11)
    indices = rng.integers(0, 11, 5).astype(np.int32)
    y = np.full((5, table.shape[1]), np.nan, np.float32)
    variant = gather_variant(table.shape[1], table="fp32", factor=factor)
    run("gather_rows", variant, {"indices": indices, "table": table, "y": y}, {"rows": 5})
    assert np.array_equal(y, table[indices] * np.float32(factor))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ACTIVATION_KINDS)
def test_activations_are_those_of_float64(rng: np.random.Generator, run: Any, name: str) -> None:
    x = random_rows(rng, 3)
    x.flat[:4] = [0.0, -200.0, 200.0, -1e-30][: x.size]
    y = np.full_like(x, np.nan)
    run("row_function", function_variant(x.shape[1], name), {"x": x, "other": x, "y": y}, {"rows": 3})
    np.testing.assert_allclose(y, reference.activation(x, name), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("run", RUNS)
def test_factors_caps_bounds_and_gates(rng: np.random.Generator, run: Any) -> None:
    x = random_rows(rng, 4)
    other = rng.standard_normal(x.shape).astype(np.float32)
    gate = rng.standard_normal((4, 1)).astype(np.float32)
    width = x.shape[1]
    cases = [
        (function_variant(width, "scale", first=0.25), other, x * 0.25),
        (function_variant(width, "scale", first=0.3, adds=True), other, other + x * np.float64(0.3)),
        (function_variant(width, "soft_cap", first=2.5), other, 2.5 * np.tanh(x.astype(np.float64) / 2.5)),
        (function_variant(width, "clip", first=-1.0, second=0.5), other, np.clip(x, -1.0, 0.5)),
        (function_variant(width, "gate"), gate, x / (1 + np.exp(-gate.astype(np.float64)))),
        (function_variant(width, "relu", gates=True), other, np.maximum(x, 0) * other),
    ]
    for variant, second, exact in cases:
        y = np.full_like(x, np.nan)
        run("row_function", variant, {"x": x, "other": second, "y": y}, {"rows": 4})
        np.testing.assert_allclose(y, exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_norm_is_that_of_float64(rng: np.random.Generator, run: Any, has_bias: bool) -> None:
    x = random_rows(rng, 3) + np.float32(5)
    width = x.shape[1]
    weight, bias = (rng.standard_normal(width).astype(np.float32) for _ in range(2))
    y = np.full_like(x, np.nan)
    variant = layer_norm_variant(width, epsilon=1e-5, has_bias=has_bias, weight="fp32", bias="fp32", y="fp32")
    run("layer_norm", variant, {"x": x, "weight": weight, "bias": bias, "y": y}, {"rows": 3})
    exact = reference.layer_norm(x, weight, bias if has_bias else None, epsilon=1e-5)
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=1e-4)


def test_a_norm_may_add_to_the_residual_stream_behind_itself(rng: np.random.Generator) -> None:
    x = random_rows(rng, 3)
    residual, weight = rng.standard_normal(x.shape).astype(np.float32), np.ones(x.shape[1], np.float32)
    exact = residual + x / np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True) + 1e-6)
    variant = norm_variant(x.shape[1], epsilon=1e-6, adds=False, adds_after=True, weight="fp32", y="fp32")
    arrays = {
        "x": x,
        "delta": residual,
        "weight": weight,
        "total": x,
        "y": residual,
        "y_scale": np.zeros(3, np.float32),
    }
    interpret("rms_norm", variant, arrays, {"rows": 3})
    np.testing.assert_allclose(residual, exact, rtol=1e-5, atol=1e-5)
