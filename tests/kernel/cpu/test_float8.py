"""8-bit floats in the kernels: every byte, rows rounded to them, and products with them in any company."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import ACTIVATIONS
from inflight.build.targets.cpu.compiler.compile import compile_library
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout
from inflight.errors import BuildError
from tests.kernel.cpu.harness import Array, Kernel, compile_kernels, many_rows, operator, rows
from tests.kernel.cpu.quantized import LEVELS, aligned, float8_value, random_weight8, row_scales, runnable_levels
from tests.oracles.fused_floats import gate
from tests.oracles.fused_quantized import quantize_rows, quantized_gated_linear, quantized_linear

pytestmark = pytest.mark.kernel

E4M3 = ml_dtypes.float8_e4m3fn
FLOAT8 = ir.DataType.FLOAT8E4M3FN
EPSILON = 1e-5

_EVERY_BYTE = """
#include "float8.h"
__attribute__((visibility("default"))) void as_floats(const uint8_t *bytes, float *first, float *second) {
    for (int i = 0; i < 256; i += LANES) {
        store16(F32, first, i, e4m3_half(bytes + 2 * i, 0));
        store16(F32, second, i, e4m3_half(bytes + 2 * i, 1));
    }
}
__attribute__((visibility("default"))) void as_pairs(const uint8_t *bytes, uint16_t *pairs) {
    for (int i = 0; i < 256; i += LANES) {
        u32x16 wide = e4m3_pairs(bytes + 2 * i);
        memcpy(pairs + 2 * i, &wide, sizeof wide);
    }
}
__attribute__((visibility("default"))) void round_all(int64_t count, const float *x, float *y) {
    for (int64_t i = 0; i < count; i += LANES) store16(F32, y, i, round_to_e4m3(load16(F32, x, i)));
}
"""


def _library(level: Any, directory: Path) -> ctypes.CDLL:
    compile_library(_EVERY_BYTE, level, directory / "bytes.so")
    return ctypes.CDLL(str(directory / "bytes.so"))


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@LEVELS
def test_every_byte_but_nan_is_exact(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    library = _library(level, tmp_path)
    pairs = np.stack([np.arange(256), rng.permutation(256)], axis=1).astype(np.uint8)
    expected = pairs.view(E4M3).astype(np.float32)
    numbers = ~np.isnan(expected)
    halves, wide = np.zeros((2, 256), np.float32), np.zeros((256, 2), ml_dtypes.bfloat16)
    library.as_floats(_address(pairs), _address(halves[0]), _address(halves[1]))
    library.as_pairs(_address(pairs), _address(wide))
    np.testing.assert_array_equal(halves.T[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    np.testing.assert_array_equal(wide.astype(np.float32)[numbers].view(np.uint32), expected[numbers].view(np.uint32))


@LEVELS
def test_values_are_rounded_to_nearest_even_and_cut_to_the_range(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Every number of the type, every point half way between two, their neighbours, and numbers of every size."""
    values = np.unique(np.arange(127, dtype=np.uint8).view(E4M3).astype(np.float32))
    middles = (values[1:] + values[:-1]) / 2
    near = [np.nextafter(middles, np.float32(way), dtype=np.float32) for way in (0, np.inf)]
    wild = (rng.standard_normal(4096) * 10.0 ** rng.integers(-12, 6, 4096)).astype(np.float32)
    special = np.array([0, np.inf, 448, 464, 1e-45, 1e38, np.float32(2**-10), 3 * 2.0**-11], np.float32)
    x = np.concatenate([values, middles, *near, wild, special])
    x = np.concatenate([x, -x, [np.float32(np.nan)]])
    x = np.concatenate([x, np.zeros(-len(x) % 16, np.float32)]).astype(np.float32)
    y = np.full_like(x, 7)
    _library(level, tmp_path).round_all(ctypes.c_int64(len(x)), _address(x), _address(y))
    expected = np.clip(x, -448, 448).astype(E4M3).astype(np.float32)
    np.testing.assert_array_equal(y, expected)


def _random_rows(rng: np.random.Generator, count: int, width: int) -> Array:
    x = rng.standard_normal((count, width), np.float32) * rng.uniform(1e-3, 1e3, (count, 1)).astype(np.float32)
    x[rng.random(count) < 0.2] = 0
    return x.astype(np.float32)


@dataclass(frozen=True)
class Rounding:
    """The constants of QuantizeRows behind x."""

    scale: float | None = None
    limits: tuple[float, float] | None = None

    @property
    def constants(self) -> list[Array | None]:
        if self.scale is not None:
            return [np.array(self.scale, np.float32)]
        return [None, *(np.array(limit, np.float32) for limit in self.limits)] if self.limits else []


ROUNDINGS = (Rounding(), Rounding(scale=0.0123), Rounding(limits=(-1.5, 2.25)))


@LEVELS
def test_rows_are_rounded_as_defined_and_do_not_see_their_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 500)), int(rng.integers(2, 40))
    x = _random_rows(rng, count, width)
    inputs = [(x.astype(dtype), rounding) for rounding in ROUNDINGS for dtype in (np.float32, ml_dtypes.bfloat16)]
    graphs = []
    for given, rounding in inputs:
        source = rows("x", width, ir.tensor(given[:0]).dtype)
        outputs = [float8_value("y", width), row_scales("y_scale")]
        graphs.append(operator("QuantizeRows", [source, *rounding.constants], outputs, {"type": "float8_e4m3fn"}))
    for kernel, (given, rounding) in zip(compile_kernels(graphs, level, tmp_path), inputs, strict=True):
        expected, expected_scale = quantize_rows(given, *rounding.constants, type="float8_e4m3fn")
        for threads in (1, 2):
            found, scale = _rounded(kernel, given, threads)
            np.testing.assert_array_equal(scale, expected_scale)
            np.testing.assert_array_equal(found, expected.astype(np.float32))
        alone, scale = _rounded(kernel, given[-1:].copy())
        np.testing.assert_array_equal(alone, found[-1:])


def _rounded(kernel: Kernel, x: Array, threads: int = 1) -> tuple[Array, Array]:
    y, scale = np.full(x.shape, 7, ml_dtypes.bfloat16), np.full(len(x), np.nan, np.float32)
    kernel.run(len(x), x, None, y, scale, threads=threads)
    return y.astype(np.float32), scale


@LEVELS
def test_a_value_that_is_no_number_spoils_its_row_alone(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    width = int(rng.integers(1, 100))
    x = _random_rows(rng, 3, width)
    x[0, rng.integers(width)], x[1, rng.integers(width)] = np.nan, -np.inf
    for rounding in ROUNDINGS[:2]:
        outputs = [float8_value("y", width), row_scales("y_scale")]
        graph = operator("QuantizeRows", [rows("x", width), *rounding.constants], outputs, {"type": "float8_e4m3fn"})
        (kernel,) = compile_kernels([graph], level, tmp_path)
        found, scale = _rounded(kernel, x)
        assert np.isnan(found[0]).any() and np.isfinite(found[2]).all()
        assert rounding.scale is not None or (np.isnan(scale[0]) and np.isposinf(scale[1]))


def _random_levels(rng: np.random.Generator, count: int, k: int) -> Array:
    x = random_weight8(rng, count, k)
    x[rng.random(count) < 0.2] = 0
    return x


def _scales(rng: np.random.Generator, n: int, groups: int = 1) -> Array:
    """One for each output, or one for all; or one for each group of an output."""
    size = (n, groups) if groups > 1 else n if rng.random() < 0.5 else 1
    return (rng.uniform(0.5, 2, size) / 4096).astype(np.float32)


def _random_group(rng: np.random.Generator, k: int) -> int:
    """Of k inputs: none, or one that begins anywhere among the stretches that are widened at once."""
    return int(rng.choice([0, 0, *(size for size in (16, 48, 128, 304) if size < k)]))


def _run(kernel: Kernel, x: Array, x_scale: Array, y: Array, *more: Any, threads: int = 1) -> Array:
    wide = aligned(x.astype(ml_dtypes.bfloat16))
    kernel.run(len(x), wide, np.ascontiguousarray(x_scale), *kernel.packed, *more, y, threads=threads)
    return y


@LEVELS
def test_products_are_those_of_the_numbers_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    shapes = [(int(rng.integers(1, 200)), int(rng.integers(1, 700)), int(rng.integers(1, 110))) for _ in range(2)]
    shapes += [(1, 1, 1), (65, 257, 7), (64, 512, 13)]
    groups = [_random_group(rng, k) for _, k, _ in shapes]
    weights = [random_weight8(rng, n, k) for n, k, _ in shapes]
    scales = [_scales(rng, n, -(-k // size) if size else 1) for (n, k, _), size in zip(shapes, groups, strict=True)]
    biases = [rng.standard_normal(n, np.float32) for n, _, _ in shapes]
    graphs = [
        operator(
            "QuantizedLinear",
            [float8_value("x", k), row_scales("x_scale"), weight, scale, bias, None, rows("residual", n)],
            [rows("y", n)],
            {"group_size": size},
        )
        for (n, k, _), weight, scale, bias, size in zip(shapes, weights, scales, biases, groups, strict=True)
    ]
    kernels = compile_kernels(graphs, level, tmp_path)
    for (n, k, count), kernel, weight, scale, bias, size in zip(
        shapes, kernels, weights, scales, biases, groups, strict=True
    ):
        x, x_scale = _random_levels(rng, count, k), rng.uniform(0, 0.1, count).astype(np.float32)
        y = _run(kernel, x, x_scale, np.full((count, n), np.nan, np.float32), None)
        expected = quantized_linear(x, x_scale, weight, scale, bias, group_size=size)
        terms = quantized_linear(abs(x), x_scale, abs(weight), scale, group_size=size)
        assert (abs(y - expected) <= 2e-6 * (abs(terms) + abs(bias)) + 1e-30).all()
        np.testing.assert_array_equal(_run(kernel, x, x_scale, np.empty_like(y), None, threads=2), y)
        threads, order = many_rows(rng, count)
        many = _run(kernel, x[order], x_scale[order], np.empty_like(y[order]), None, threads=threads)
        np.testing.assert_array_equal(many, y[order])
        start, stop = sorted(rng.integers(0, count + 1, 2))
        for part in (slice(start, stop), slice(count - 1, count), slice(0, min(count, 7))):
            alone = np.full_like(y[part], np.nan)
            np.testing.assert_array_equal(_run(kernel, x[part], x_scale[part], alone, None, threads=2), y[part])
        residual = rng.standard_normal(y.shape, np.float32)
        in_place = residual.copy()
        np.testing.assert_array_equal(_run(kernel, x, x_scale, in_place, in_place, threads=2), residual + y)


@LEVELS
@pytest.mark.parametrize("biased", [True, False])
def test_gated_products_are_the_activated_gate_times_up(
    level: Any, biased: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    n, k, count = int(rng.integers(1, 150)), int(rng.integers(1, 600)), int(rng.integers(1, 110))
    matrices, size = [random_weight8(rng, n, k) for _ in range(2)], _random_group(rng, k)
    scales = [_scales(rng, n, -(-k // size) if size else 1) / np.float32(64) for _ in range(2)]
    weights = [array for pair in zip(matrices, scales, strict=True) for array in pair]
    weights += list(rng.standard_normal((2, n), np.float32)) if biased else []
    inputs = [float8_value("x", k), row_scales("x_scale"), *weights]
    activation = str(rng.choice(ACTIVATIONS))
    graph = operator("QuantizedGatedLinear", inputs, [rows("y", n)], {"activation": activation, "group_size": size})
    (kernel,) = compile_kernels([graph], level, tmp_path)
    missing = [] if biased else [None]
    x, x_scale = _random_levels(rng, count, k), rng.uniform(0, 0.1, count).astype(np.float32)
    y = _run(kernel, x, x_scale, np.full((count, n), np.nan, np.float32), *missing)
    expected = quantized_gated_linear(x, x_scale, *weights, activation=activation, group_size=size)
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-5 * (1 + float(abs(expected).max())))
    np.testing.assert_array_equal(_run(kernel, x, x_scale, np.empty_like(y), *missing, threads=2), y)
    np.testing.assert_array_equal(_run(kernel, x[-1:], x_scale[-1:], np.empty_like(y[-1:]), *missing), y[-1:])


@LEVELS
def test_norms_round_what_they_normalize(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    width, count = int(rng.integers(1, 500)), int(rng.integers(1, 40))
    weight, x = rng.standard_normal(width, np.float32), _random_rows(rng, count, width)
    attributes = {"epsilon": EPSILON, "type": "float8_e4m3fn"}
    for rounding in ROUNDINGS:
        outputs = [float8_value("y", width), row_scales("y_scale")]
        graph = operator("RMSNormQuantize", [rows("x", width), weight, *rounding.constants], outputs, attributes)
        (norm,) = compile_kernels([graph], level, tmp_path)
        y, scale = np.full(x.shape, 7, ml_dtypes.bfloat16), np.full(count, np.nan, np.float32)
        norm.run(count, x, norm.packed[0], y, scale, threads=2)
        inverse = 1 / np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=1, keepdims=True) + EPSILON)
        expected, expected_scale = quantize_rows(
            (x * inverse * weight).astype(np.float32), *rounding.constants, type="float8_e4m3fn"
        )
        np.testing.assert_allclose(scale, expected_scale, rtol=1e-5)
        # A value on the edge between two numbers may fall to either side.
        np.testing.assert_allclose(y.astype(np.float32), expected.astype(np.float32), rtol=0.126, atol=2**-9)


@LEVELS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gate_multiplies_an_activated_product_with_another(
    level: Any, activation: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 100)), int(rng.integers(1, 20))
    types = (ir.DataType.FLOAT, ir.DataType.BFLOAT16)
    graphs = [
        operator("Gate", [rows("g", width), rows("u", width)], [rows("y", width, act)], {"activation": activation})
        for act in types
    ]
    plain, rounding = compile_kernels(graphs, level, tmp_path)
    gates, up = (rng.standard_normal((count, width), np.float32) * 4 for _ in range(2))
    y, rounded = gates.copy(), np.zeros((count, width), ml_dtypes.bfloat16)
    plain.run(count, y, up, y, threads=2)
    np.testing.assert_allclose(y, gate(gates, up, activation=activation), rtol=2e-6, atol=1e-5)
    rounding.run(count, gates, up, rounded, threads=2)
    # The processor's own conversion to bfloat16 makes zeros of numbers below the least normal one.
    nearest = y.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_allclose(rounded.astype(np.float32), nearest, rtol=0, atol=2.0**-126)


@pytest.mark.parametrize("bits", [0x7F, 0xFF])
def test_weights_that_are_no_numbers_are_refused_by_name(rng: np.random.Generator, bits: int, tmp_path: Path) -> None:
    n, k = int(rng.integers(1, 100)), int(rng.integers(1, 100))
    weight = random_weight8(rng, n, k)
    weight.view(np.uint8)[rng.integers(n), rng.integers(k)] = bits
    inputs = [float8_value("x", k), row_scales("x_scale"), weight, _scales(rng, n)]
    graph = operator("QuantizedLinear", inputs, [rows("y", n)], {"group_size": 0})
    assert WeightLayout(graph).total_bytes
    with pytest.raises(BuildError, match=r"weight\.\d+: A weight is NaN"):
        compile_kernels([graph], runnable_levels()[0], tmp_path)
