"""Norms, gates and rounding of the cuda target, interpreted and on a GPU where there is one, against float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.spec import Variant
from tests.kernel.gpu.support.cuda_gpu import run_on_gpu
from tests.kernel.gpu.support.cuda_launch import interpret
from tests.oracles.gpu import rows as reference
from tests.oracles.gpu.weight_only import float8_numbers

from inflight.build.gpu_kernels.kernels.quantize_rows import quantize_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.rms_norm import norm_variant  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
EPSILON = 1e-5
# The error of rounding to a type, relative; for bfloat16 of cutting it off, which is what the interpreter does.
STEP = {"fp32": 2.0**-21, "fp16": 2.0**-11, "bf16": 2.0**-7}
NUMPY = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
# Of the rounding of a row, what a norm that has none does not read.
UNREAD = {name: np.full(1, np.nan, np.float32) for name in ("stored", "low", "high")}


def random_rows(rng: np.random.Generator, rows: int, width: int, dtype: str) -> Array:
    """Rows of very different size; the first is zero."""
    values = rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-3, 3, (rows, 1))
    values[0] = 0.0
    return values.astype(NUMPY[dtype])


def assert_quantized(levels: Array, scale: Array, exact: Array, kind: str) -> None:
    """Levels are the nearest to exact / scale, up to the error of float32; scales are those of the greatest values, but
    for float8 rows of zeros, which may have one that is no zero."""
    np.testing.assert_allclose(scale, reference.row_scales(exact, kind), rtol=2e-6, atol=2e-33)
    assert not (levels[(exact == 0).all(axis=1)] & 0x7F).any()  # float8 has a -0
    wanted = np.divide(exact, scale[:, None], out=np.zeros_like(exact), where=scale[:, None] > 0)
    values = levels if kind == "int8" else float8_numbers(levels)
    error = np.abs(values.astype(np.float64) - wanted)
    half_step = 0.5 if kind == "int8" else np.maximum(np.abs(wanted) * 2.0**-4, 2.0**-10)
    assert (error <= half_step + 1e-4 * np.maximum(1.0, np.abs(wanted) / 16)).all()


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize("width", [1, 80, 896, 1000])
@pytest.mark.parametrize(("x", "y"), [("fp32", "bf16"), ("fp32", "fp32"), ("fp16", "fp16")])
def test_rms_norm_is_that_of_float64(rng: np.random.Generator, run: Any, width: int, x: str, y: str) -> None:
    rows = random_rows(rng, 3, width, x)
    weight = rng.standard_normal(width).astype(NUMPY[y])
    result = np.zeros((3, width), NUMPY[y])
    unused = np.full((3, width), 7.0, NUMPY[x])
    variant = norm_variant(width, epsilon=EPSILON, adds=False, x=x, delta=x, weight=y, y=y)
    arrays = {
        "x": rows,
        "delta": unused,
        "total": unused,
        "weight": weight,
        "y": result,
        "y_scale": np.zeros(3, np.float32),
        **UNREAD,
    }
    run("rms_norm", variant, arrays, {"rows": 3})
    exact = reference.rms_norm(rows, weight, epsilon=EPSILON)
    assert (np.abs(result.astype(np.float64) - exact) <= STEP[y] * np.abs(exact) + 1e-7).all()
    assert (unused == 7.0).all()


@pytest.mark.parametrize("kind", ["int8", "float8", "fp32"])
@pytest.mark.parametrize("delta", ["fp32", "bf16"])
def test_rms_norm_adds_first_and_rounds_rows(rng: np.random.Generator, kind: str, delta: str) -> None:
    count, width = 4, int(rng.integers(2, 1200))
    rows, added = random_rows(rng, count, width, "fp32"), random_rows(rng, count, width, delta)
    weight = rng.standard_normal(width).astype(np.float32)
    total, scale = np.zeros((count, width), np.float32), np.zeros(count, np.float32)
    result = np.zeros((count, width), np.float32 if kind == "fp32" else np.int8)
    variant = norm_variant(width, epsilon=EPSILON, adds=True, delta=delta, weight="fp32", y=kind)
    arrays = {"x": rows, "delta": added, "total": total, "weight": weight, "y": result, "y_scale": scale}
    interpret("rms_norm", variant, {**arrays, **UNREAD}, {"rows": count})
    np.testing.assert_array_equal(total, rows + added.astype(np.float32))
    exact = reference.rms_norm(total, weight, epsilon=EPSILON)
    if kind == "fp32":
        np.testing.assert_allclose(result.astype(np.float32), exact, rtol=2e-6, atol=1e-7)
    else:
        assert_quantized(result, scale, exact, kind)


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize("kind", ["int8", "float8", "fp16"])
def test_rms_norm_rounds_to_the_bits_of_quantize_rows(rng: np.random.Generator, run: Any, kind: str) -> None:
    """In one launch as in two, by each row's own scale, within limits, and by a stored one."""
    count, width = 4, int(rng.integers(2, 1200))
    rows, weight = random_rows(rng, count, width, "fp32"), rng.standard_normal(width).astype(np.float32)
    normal = np.zeros((count, width), np.float32)
    types: dict[str, Any] = {"x": "fp32", "weight": "fp32"}
    limits = {name: np.array([value], np.float32) for name, value in (("stored", 0.01), ("low", -1.5), ("high", 0.75))}
    arrays = {"x": rows, "delta": rows, "total": rows, "weight": weight}
    plain = norm_variant(width, epsilon=EPSILON, adds=False, y="fp32", **types)
    run("rms_norm", plain, {**arrays, **UNREAD, "y": normal, "y_scale": np.zeros(count, np.float32)}, {"rows": count})
    cuts, stored = {"cuts": True}, {"has_stored": True}
    ways: dict[str, list[dict[str, Any]]] = {"int8": [{}, stored], "float8": [{}, cuts, stored], "fp16": [{}]}
    for way in ways[kind]:
        results = []
        for function, variant, given in (
            ("rms_norm", norm_variant(width, epsilon=EPSILON, adds=False, y=kind, **types, **way), arrays),
            (
                "quantize_rows",
                quantize_variant(width, kind, **way),
                {"x": normal, "order": np.zeros(1, np.int32), "factors": weight},
            ),
        ):
            y, scale = np.full((count, width), 7, NUMPY.get(kind, np.int8)), np.full(count, 7, np.float32)
            run(function, variant, {**given, **limits, "y": y, "y_scale": scale}, {"rows": count})
            results.append((y, scale))
        (y, scale), (expected, expected_scale) = results
        assert np.array_equal(y.view(np.uint8), expected.view(np.uint8)), way
        assert np.array_equal(scale, expected_scale) and np.unique(y[1:]).size > 1, way


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize("width", [1, 100, 1500])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_swiglu_is_that_of_float64(rng: np.random.Generator, run: Any, width: int, dtype: str) -> None:
    gate_up = (rng.standard_normal((3, 2 * width)) * 8).astype(NUMPY[dtype])
    result = np.zeros((3, width), np.float32)
    variant = Variant({"gate_up": dtype, "y": "fp32"}, {"width": width})
    run("swiglu", variant, {"gate_up": gate_up, "y": result}, {"rows": 3})
    # A GPU's exp is that of a product with log2 e, whose rounding grows with the gate.
    relative = 2e-6 if run is interpret else 1e-5
    np.testing.assert_allclose(result, reference.swiglu(gate_up), rtol=relative, atol=1e-30)


@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_swiglu_rounds_rows(rng: np.random.Generator, kind: str) -> None:
    width = int(rng.integers(2, 1200))
    gate_up = random_rows(rng, 4, 2 * width, "fp32")
    result, scale = np.zeros((4, width), np.int8), np.zeros(4, np.float32)
    variant = Variant({"gate_up": "fp32"}, {"width": width, "float8": kind == "float8"})
    interpret("swiglu_quantize", variant, {"gate_up": gate_up, "y": result, "y_scale": scale}, {"rows": 4})
    assert_quantized(result, scale, reference.swiglu(gate_up), kind)


def test_a_row_is_the_same_in_any_company(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 5, 896, "fp32")
    results = []
    for chosen in (rows, rows[3:4]):
        result, scale = np.zeros(chosen.shape, np.int8), np.zeros(len(chosen), np.float32)
        variant = norm_variant(896, epsilon=EPSILON, adds=False, delta="fp32", weight="fp32", y="int8")
        names = {"x": chosen.copy(), "delta": chosen, "total": chosen, "weight": np.ones(896, np.float32), **UNREAD}
        interpret("rms_norm", variant, {**names, "y": result, "y_scale": scale}, {"rows": len(chosen)})
        results.append((result, scale))
    assert np.array_equal(results[0][0][3], results[1][0][0]) and results[0][1][3] == results[1][1][0]


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize("has_bias", [False, True])
def test_sums_of_integers_are_scaled_by_row_and_output(rng: np.random.Generator, run: Any, has_bias: bool) -> None:
    n = int(rng.integers(1, 2000))
    sums = rng.integers(-(2**24), 2**24, (3, n)).astype(np.int32)
    x_scale, weight_scale = rng.random(3).astype(np.float32), rng.random(n).astype(np.float32)
    bias, result = rng.standard_normal(n).astype(np.float32), np.zeros((3, n), np.float32)
    arrays = {"sums": sums, "x_scale": x_scale, "weight_scale": weight_scale, "bias": bias, "y": result}
    run("scale_product", Variant({"y": "fp32"}, {"n": n, "has_bias": has_bias}), arrays, {"rows": 3})
    exact = sums * weight_scale.astype(np.float64) * x_scale.astype(np.float64)[:, None] + has_bias * bias
    np.testing.assert_allclose(result, exact, rtol=1e-6, atol=1e-4)
