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
from inflight.build.gpu_kernels.kernels.qkv_norm import qkv_norm_variant  # isort: skip
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
def test_xielu_is_that_of_float64(rng: np.random.Generator, run: Any) -> None:
    """Also near 0, where e^x - 1 is a series, and where that ends."""
    x = np.concatenate([random_rows(rng, 1)[0], -(10.0 ** -np.arange(0, 9, 0.25)), [0.0, -0.5, -100.0]])[None]
    x = x.astype(np.float32)
    positive, negative, beta, epsilon = (*rng.uniform(0.2, 2, 3), -1e-6)
    numbers = dict(zip(("first", "second", "third", "fourth"), (positive, negative, beta, epsilon), strict=True))
    y = np.full_like(x, np.nan)
    run("row_function", function_variant(x.shape[1], "xielu", **numbers), {"x": x, "other": x, "y": y}, {"rows": 1})
    wide = x.astype(np.float64)
    power, square = np.expm1(np.minimum(wide, epsilon)), np.where(wide > 0, positive * wide**2, 0)
    exact = beta * wide + np.where(wide > 0, square, negative * (power - wide))
    # Its terms nearly cancel below 0, where it changes its sign.
    terms = beta * np.abs(wide) + square + negative * (np.abs(power) + np.abs(wide))
    assert (np.abs(y - exact) <= 2e-6 * terms).all()


@pytest.mark.parametrize("run", RUNS)
def test_queries_and_keys_are_normalized_as_wholes(rng: np.random.Generator, run: Any) -> None:
    """In other memory, and in place."""
    heads, kv_heads, size = (int(rng.integers(1, high)) for high in (9, 4, 70))
    q_width, k_width = heads * kv_heads * size, kv_heads * size
    qkv = (rng.standard_normal((3, q_width + 2 * k_width)) * 3).astype(np.float32)
    norms = {"q_norm": q_width, "k_norm": k_width}
    arrays = {name: rng.uniform(0.5, 2, width).astype(np.float32) for name, width in norms.items()}
    q, k, v = np.split(qkv.astype(np.float64), [q_width, q_width + k_width], axis=1)
    wholes = [
        x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-6) * arrays[name]
        for x, name in ((q, "q_norm"), (k, "k_norm"))
    ]
    variant = qkv_norm_variant(q_width, k_width, epsilon=1e-6, norm="fp32")
    for y in (np.full_like(qkv, np.nan), qkv):
        run("qkv_norm", variant, {**arrays, "qkv": qkv, "y": y}, {"rows": 3})
        np.testing.assert_allclose(y, np.concatenate([*wholes, v], axis=1), rtol=1e-5, atol=1e-6)


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
        **dict.fromkeys(("stored", "low", "high"), np.zeros(1, np.float32)),
    }
    interpret("rms_norm", variant, arrays, {"rows": 3})
    np.testing.assert_allclose(residual, exact, rtol=1e-5, atol=1e-5)
