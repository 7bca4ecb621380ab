"""Elementary functions and conversions of vec.h, 16 lanes at a time."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inflight.build.targets.cpu.compile import compile_library
from tests.kernel.harness import Array, levels

pytestmark = pytest.mark.kernel

SOURCE = """
#include "vec.h"
#define EXPORT __attribute__((visibility("default")))
EXPORT void exponential(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store16(F32, y, i, exp16(load16(F32, x, i)));
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


def test_the_exponential_is_within_two_units_in_the_last_place(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    x = rng.uniform(-87.3, 88.7, COUNT).astype(np.float32)
    y = _call(library.exponential, x, np.zeros_like(x))
    exact = np.exp(x.astype(np.float64))
    assert float(np.max(np.abs(y - exact) / exact)) < 2 * np.finfo(np.float32).eps


def test_the_exponential_is_exact_where_attention_relies_on_it(library: ctypes.CDLL) -> None:
    x = np.zeros(16, np.float32)
    x[:6] = [0.0, -0.0, -np.inf, -1e30, np.inf, np.nan]
    y = _call(library.exponential, x, np.ones_like(x))
    np.testing.assert_array_equal(y[:4], np.array([1, 1, 0, 0], np.float32))
    assert np.isfinite(y[4]) and y[4] > 1e38
    assert np.isnan(y[5])


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
