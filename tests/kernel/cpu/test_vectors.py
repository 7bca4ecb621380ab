"""Elementary functions and conversions of the kernels, 16 lanes at a time."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inflight.build.targets.cpu.compiler.compile import compile_library
from tests.kernel.cpu.harness import Array, levels
from tests.oracles.fused_floats import activated

pytestmark = pytest.mark.kernel

SOURCE = """
#include "attention_softmax.h"
#define EXPORT __attribute__((visibility("default")))
EXPORT void silu(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store16(F32, y, i, silu16(load16(F32, x, i)));
}
#define FUNCTION(name, value)                                                             \\
    EXPORT void name(const float *input, float *y, int64_t n) {                           \\
        for (int64_t i = 0; i < n; i += LANES) {                                          \\
            const f32x16 x = load16(F32, input, i);                                       \\
            store16(F32, y, i, value);                                                    \\
        }                                                                                 \\
    }
FUNCTION(hyperbolic_tangent, tanh16(x))
FUNCTION(error_function, erf16(x))
FUNCTION(gelu, activate16(GELU, x))
FUNCTION(gelu_tanh, activate16(GELU_TANH, x))
FUNCTION(relu, activate16(RELU, x))
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


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """The functions at every level of `levels`."""
    directory = tmp_path_factory.mktemp("vectors")
    for level in levels():
        compile_library(SOURCE, level, directory / level.name)
    return {level.name: ctypes.CDLL(str(directory / level.name)) for level in levels()}


@pytest.fixture(params=[level.name for level in levels()])
def library(request: pytest.FixtureRequest, libraries: dict[str, ctypes.CDLL]) -> ctypes.CDLL:
    return libraries[request.param]


def _call(function: Any, x: Array, y: Array) -> Array:
    function(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(x.size))
    return y


def test_silu_is_as_exact_as_its_exponent_in_float32(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    """The exponent -x log2 e is rounded to float32, twice half a unit of its size: so much is the power of two off."""
    x = rng.uniform(-87.0, 87.0, COUNT).astype(np.float32)
    exact = x / (1 + np.exp(-x.astype(np.float64)))
    error = np.abs(_call(library.silu, x, np.zeros_like(x)) - exact) / np.abs(exact)
    assert np.all(error < (4 + np.abs(x)) * np.finfo(np.float32).eps)


def _everywhere(rng: np.random.Generator) -> Array:
    """Random numbers of every size at which something happens, zero among them."""
    x = rng.uniform(-12, 12, COUNT) * 10.0 ** rng.choice([0, -1, -3, -20], COUNT)
    x[:: COUNT // 8] = 0.0
    return x.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "exact"),
    [("hyperbolic_tangent", np.tanh), ("error_function", np.vectorize(math.erf, otypes=[np.float64]))],
)
def test_tanh_and_erf_are_right_to_a_few_units_in_the_last_place_and_end_at_one(
    library: ctypes.CDLL, rng: np.random.Generator, name: str, exact: Callable[[Array], Array]
) -> None:
    x = _everywhere(rng)
    y, expected = _call(getattr(library, name), x, np.zeros_like(x)), exact(x.astype(np.float64))
    assert np.all(np.abs(y - expected) <= 3.5e-7 * np.abs(expected))
    ends = np.array([10.0, -10.0, 3e38, -3e38, np.inf, -np.inf, np.nan, 0.0] * 2, np.float32)
    np.testing.assert_array_equal(
        _call(getattr(library, name), ends, np.zeros_like(ends))[:8], [1, -1, 1, -1, 1, -1, np.nan, 0]
    )


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu"])
def test_activations_are_those_of_the_operators(library: ctypes.CDLL, rng: np.random.Generator, name: str) -> None:
    x = _everywhere(rng)
    y, expected = _call(getattr(library, name), x, np.zeros_like(x)), activated(x, activation=name)
    assert np.all(np.abs(y - expected) <= 5e-7 * np.abs(x))
    ends = np.array([1e30, -1e30, np.nan, 0.0] * 4, np.float32)
    y = _call(getattr(library, name), ends, np.zeros_like(ends))
    np.testing.assert_allclose(y[:4], [1e30, 0, np.nan, 0], atol=1e-7)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "hyperbolic_tangent", "error_function"])
def test_functions_are_the_same_bits_at_every_level(
    libraries: dict[str, ctypes.CDLL], rng: np.random.Generator, name: str
) -> None:
    x = _everywhere(rng)
    first, *others = (_call(getattr(one, name), x, np.zeros_like(x)) for one in libraries.values())
    for other in others:
        np.testing.assert_array_equal(other.view(np.uint32), first.view(np.uint32))


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
