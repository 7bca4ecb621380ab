"""Elementary functions and conversions of the kernels, 16 lanes at a time."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inflight.build.targets.cpu.compiler.compile import compile_library
from tests.kernel.cpu.harness import Array, levels

pytestmark = pytest.mark.kernel

SOURCE = """
#include "attention_softmax.h"
#define EXPORT __attribute__((visibility("default")))
EXPORT void silu(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store16(F32, y, i, silu16(load16(F32, x, i)));
}
EXPORT void weights(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store16(F32, y, i, weight16(F32, load16(F32, x, i)));
}
EXPORT void weights_for_brain(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store16(F32, y, i, weight16(BF16, load16(F32, x, i)));
}
EXPORT void sums(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) y[i / LANES] = sum16(load16(F32, x, i));
}
EXPORT void to_half(const float *x, void *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store16(F16, y, i, load16(F32, x, i));
}
EXPORT void to_brain(const float *x, void *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store16(BF16, y, i, load16(F32, x, i));
}
EXPORT void brains_one_by_one(const float *x, void *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) store1(BF16, y, i, load1(F32, x, i));
}
"""
COUNT = 16 * 4096


@pytest.fixture(scope="module", params=levels(), ids=lambda level: str(level.name))
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("vectors") / "library"
    compile_library(SOURCE, request.param, path)
    return ctypes.CDLL(str(path))


def _call(function: Any, x: Array, y: Array) -> Array:
    function(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(x.size))
    return y


def test_silu_is_as_exact_as_its_exponent_in_float32(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    """The exponent -x log2 e is rounded to float32, twice half a unit of its size: so much is the power of two off."""
    x = rng.uniform(-87.0, 87.0, COUNT).astype(np.float32)
    exact = x / (1 + np.exp(-x.astype(np.float64)))
    error = np.abs(_call(library.silu, x, np.zeros_like(x)) - exact) / np.abs(exact)
    assert np.all(error < (4 + np.abs(x)) * np.finfo(np.float32).eps)


@pytest.mark.parametrize(("name", "bound"), [("weights", 4e-7), ("weights_for_brain", 2e-4)])
def test_weights_of_the_softmax_are_powers_of_two(
    library: ctypes.CDLL, rng: np.random.Generator, name: str, bound: float
) -> None:
    x = rng.uniform(-126.0, 0.0, COUNT).astype(np.float32)
    y = _call(getattr(library, name), x, np.zeros_like(x))
    exact = np.exp2(x.astype(np.float64))
    assert float(np.max(np.abs(y - exact) / exact)) < bound


@pytest.mark.parametrize("name", ["weights", "weights_for_brain"])
def test_weights_are_exact_where_attention_relies_on_it(library: ctypes.CDLL, name: str) -> None:
    x = np.zeros(16, np.float32)
    x[:6] = [0.0, -0.0, -127.0, -1e30, -np.inf, -3.4e38]
    y = _call(getattr(library, name), x, np.ones_like(x))
    np.testing.assert_array_equal(y[:6], np.array([1, 1, 0, 0, 0, 0], np.float32))


def test_sums_have_the_one_tree(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    x = rng.standard_normal((COUNT // 16, 16)).astype(np.float32)
    folded = x
    for width in (8, 4, 2, 1):
        folded = folded[:, :width] + folded[:, width:]
    np.testing.assert_array_equal(_call(library.sums, x, np.zeros(COUNT // 16, np.float32)), folded[:, 0])


def test_rounding_to_half_types_is_that_of_numpy(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    x = (rng.standard_normal(COUNT) * 10.0 ** rng.integers(-6, 5, COUNT)).astype(np.float32)
    np.testing.assert_array_equal(_call(library.to_half, x, np.zeros(COUNT, np.float16)), x.astype(np.float16))
    expected = x.astype(ml_dtypes.bfloat16)
    for function in (library.to_brain, library.brains_one_by_one):
        np.testing.assert_array_equal(_call(function, x, np.zeros(COUNT, ml_dtypes.bfloat16)), expected)
