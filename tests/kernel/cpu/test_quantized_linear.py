"""Products of integers against NumPy: exact sums, the same bits on every machine and in any company."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import ACTIVATIONS
from inflight.build.targets.cpu.compiler.cpu_levels import CpuLevel
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout
from inflight.convert.quantization.multiples import MOST_MULTIPLE
from inflight.errors import BuildError
from tests.kernel.cpu.harness import Array, Kernel, compile_kernels, many_rows, operator, rows, several
from tests.kernel.cpu.quantized import (
    LEVELS,
    integer_rows,
    random_levels,
    random_weight,
    row_scales,
    runnable_levels,
    to_record,
)
from tests.oracles.fused_quantized import quantized_gated_linear, quantized_linear

pytestmark = pytest.mark.kernel


@dataclass(frozen=True)
class Product:
    """One product: bits of weights and activations, values per scale (0: all of a row), the scales' type, and whether
    groups have zero points. Scales of int8 are multiples of a unit.
    """

    weight_bits: int
    row_bits: int
    group: int
    scale_type: Any
    has_zeros: bool = False

    def scales(self, rng: np.random.Generator, n: int, k: int) -> Array:
        """Of either sign."""
        shape = (n, -(-k // self.group)) if self.group else (n,)
        if self.scale_type == np.int8:
            multiples: Array = rng.integers(-MOST_MULTIPLE, MOST_MULTIPLE + 1, shape).astype(np.int8)
            return multiples
        scales: Array = (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape) / 64).astype(self.scale_type)
        return scales

    def unit(self, rng: np.random.Generator, n: int) -> Array | None:
        """Of the scales of each output."""
        return rng.uniform(0, 0.01, n).astype(np.float32) if self.scale_type == np.int8 else None

    def zeros(self, rng: np.random.Generator, scales: Array) -> Array | None:
        """Such as panels can hold: beside float16 scales they are float32, of 4-bit weights more than a float16 number
        by 8 scales.
        """
        if not self.has_zeros:
            return None
        zeros: Array = (rng.permutation(scales) * 8).astype(self.scale_type)
        if self.scale_type != np.float16:
            return zeros
        middle = 8 * scales.astype(np.float32) if self.weight_bits == 4 else np.float32(0)
        wide: Array = zeros.astype(np.float32) + middle
        return wide

    def tolerance(self, k: int) -> float:
        """Of a sum over groups; sums of integers are exact, and of 16 bits converted in two halves."""
        return 0 if not self.group and self.row_bits == 8 else 2e-7 * (1 + -(-k // (self.group or k)))


def _products(rng: np.random.Generator) -> list[Product]:
    """Every pair of widths, per channel and in groups of one of the sizes."""
    types = [np.float32, np.float16, ml_dtypes.bfloat16]
    pairs, sizes = itertools.product((8, 4), (8, 16)), rng.permutation([16, 32, 64, 128]).tolist()
    return [
        Product(w, x, group, types[rng.integers(3)], group > 0 and rng.random() < 0.5)
        for (w, x), size in zip(pairs, sizes, strict=True)
        for group in (0, size)
    ] + [
        Product(int(rng.choice([4, 8])), 24, int(rng.choice([0, 16, 32, 128])), types[0]),
        *(Product(4, x, int(rng.choice([16, 32, 64, 128])), np.int8) for x in (8, 16, 24)),
    ]


def _some(rng: np.random.Generator, level: CpuLevel) -> list[Product]:
    """A third of them, two for a level that is not this machine's own: each takes the compiler seconds."""
    products = _products(rng)
    count = len(products) // 3 if level == runnable_levels()[0] else 2
    return [products[i] for i in rng.choice(len(products), count, replace=False)]


def _meant(scale: Array, unit: Array | None) -> Array:
    """The scales themselves."""
    return scale if unit is None else scale * unit[:, None]


def _run(kernel: Kernel, record: Array, x_scale: Array, n: int, threads: int = 1) -> npt.NDArray[np.float32]:
    y = np.full((len(record), n), np.nan, np.float32)
    kernel.run(len(record), record, np.ascontiguousarray(x_scale), *kernel.packed, None, y, threads=threads)
    return y


def _run_added(kernel: Kernel, record: Array, x_scale: Array, residual: Array, in_place: bool) -> Array:
    """As _run, of two threads, added to the residual: to a copy of it in place, or beside it."""
    added = residual.copy()
    y = added if in_place else np.full_like(residual, np.nan)
    kernel.run(len(record), record, np.ascontiguousarray(x_scale), *kernel.packed, added, y, threads=2)
    return y


def _run_gated(kernel: Kernel, record: Array, x_scale: Array, n: int, threads: int = 1) -> npt.NDArray[np.float32]:
    y = np.full((len(record), n), np.nan, np.float32)
    packed = (*kernel.packed, None)[:2]
    kernel.run(len(record), record, np.ascontiguousarray(x_scale), *packed, y, threads=threads)
    return y


def _linear_graph(
    product: Product, weight: Array, scale: Array, bias: Array, zero: Array | None = None, unit: Array | None = None
) -> ir.Graph:
    n, k = weight.shape
    x = [integer_rows("x", k, product.row_bits), row_scales("x_scale")]
    inputs = [*x, weight, scale, bias, zero, rows("residual", n), *([] if unit is None else [None, unit])]
    return operator("QuantizedLinear", inputs, [rows("y", n)], {"group_size": product.group})


@LEVELS
def test_quantized_linear_is_the_exact_product_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    n, k, count = int(rng.integers(1, 200)), int(rng.integers(1, 500)), int(rng.integers(1, 41))
    products = _some(rng, level)
    weights = [random_weight(rng, p.weight_bits, n, k) for p in products]
    scales = [p.scales(rng, n, k) for p in products]
    zeros = [p.zeros(rng, s) for p, s in zip(products, scales, strict=True)]
    units = [p.unit(rng, n) for p in products]
    bias = rng.standard_normal(n, np.float32)
    cases = list(zip(products, weights, scales, zeros, units, strict=True))
    kernels = compile_kernels([_linear_graph(p, w, s, bias, z, u) for p, w, s, z, u in cases], level, tmp_path)
    for (product, weight, scale, zero, unit), kernel in zip(cases, kernels, strict=True):
        scale = _meant(scale, unit)
        x = random_levels(rng, product.row_bits, count, k)
        x_scale = rng.uniform(0, 0.1, count).astype(np.float32)
        record = to_record(x, product.group)
        y = _run(kernel, record, x_scale, n)
        expected = quantized_linear(x, x_scale, weight, scale, bias, zero, group_size=product.group)
        magnitudes, spread = abs(weight.astype(np.int16)), None if zero is None else abs(zero)
        terms = quantized_linear(abs(x), x_scale, magnitudes, abs(scale), zero=spread, group_size=product.group)
        assert (abs(y - expected) <= product.tolerance(k) * (abs(terms) + abs(bias))).all(), product
        np.testing.assert_array_equal(_run(kernel, record, x_scale, n, threads=2), y)
        threads, order = many_rows(rng, count)
        np.testing.assert_array_equal(_run(kernel, record[order], x_scale[order], n, threads), y[order])
        for part in (slice(*sorted(rng.integers(0, count + 1, 2))), slice(count - 1, count)):
            np.testing.assert_array_equal(_run(kernel, record[part], x_scale[part], n), y[part])
        residual = rng.standard_normal(y.shape, np.float32)
        for in_place in (False, True):
            np.testing.assert_array_equal(_run_added(kernel, record, x_scale, residual, in_place), residual + y)


def test_every_machine_gives_the_same_bits(rng: np.random.Generator, tmp_path: Path) -> None:
    n, k = int(rng.integers(1, 150)), int(rng.integers(100, 2000))
    # One of them: it is compiled for every machine.
    products = _products(rng)
    products = [products[rng.integers(len(products))]]
    weights = [random_weight(rng, p.weight_bits, n, k) for p in products]
    bias = np.zeros(n, np.float32)
    scales = [p.scales(rng, n, k) for p in products]
    graphs = [
        _linear_graph(p, w, s, bias, p.zeros(rng, s), p.unit(rng, n))
        for p, w, s in zip(products, weights, scales, strict=True)
    ]
    count = int(rng.integers(1, 41))
    records = [to_record(random_levels(rng, p.row_bits, count, k), p.group) for p in products]
    x_scale = rng.uniform(0, 0.1, count).astype(np.float32)
    results = [
        [_run(kernel, record, x_scale, n) for kernel, record in zip(kernels, records, strict=True)]
        for kernels in (compile_kernels(graphs, level, tmp_path) for level in several(runnable_levels()))
    ]
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("row_bits", [8, 16, 24])
def test_a_panel_that_is_written_out_gives_the_bits_of_its_groups(
    row_bits: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    product = Product(4, row_bits, int(rng.choice([16, 32, 64, 128])), np.int8)
    n, k = int(rng.integers(1, 200)), int(rng.integers(1, 400))
    weight, scale = random_weight(rng, 4, n, k), product.scales(rng, n, k)
    graph = _linear_graph(product, weight, scale, np.zeros(n, np.float32), None, product.unit(rng, n))
    kernel = compile_kernels([graph], runnable_levels()[0], tmp_path)[0]
    x = random_levels(rng, row_bits, 130, k)
    record, x_scale = to_record(x, product.group), rng.uniform(0, 0.1, len(x)).astype(np.float32)
    alone = np.concatenate([_run(kernel, record[i : i + 1], x_scale[i : i + 1], n) for i in range(len(x))])
    for count in (3, 4, 5, 6, 7, 8, 10, 12, 13, 18, 19, 97, 130):
        np.testing.assert_array_equal(_run(kernel, record[:count], x_scale[:count], n, threads=2), alone[:count])
    threads, order = many_rows(rng, len(x))
    np.testing.assert_array_equal(_run(kernel, record[order], x_scale[order], n, threads), alone[order])


@LEVELS
def test_quantized_gated_linear_is_the_activated_gate_times_up(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    n, k, count = int(rng.integers(1, 150)), int(rng.integers(1, 300)), int(rng.integers(1, 41))
    products = _some(rng, level)
    activations = [str(rng.choice(ACTIVATIONS)) for _ in products]
    biases = [list(rng.standard_normal((2 * int(rng.integers(2)), n), np.float32)) for _ in products]
    weights = [
        [x for _ in range(2) for x in (random_weight(rng, p.weight_bits, n, k), _small_scales(rng, p, n, k))]
        for p in products
    ]
    zeros = [
        [p.zeros(rng, scale) for scale in matrices[1::2]] if p.has_zeros else []
        for p, matrices in zip(products, weights, strict=True)
    ]
    units = [[u for _ in range(2) if (u := p.unit(rng, n)) is not None] for p in products]
    graphs = [
        operator(
            "QuantizedGatedLinear",
            [integer_rows("x", k, p.row_bits), row_scales("x_scale"), *matrices, *_and_zeros(added, zero, unit)],
            [rows("y", n)],
            {"activation": activation, "group_size": p.group},
        )
        for p, matrices, added, zero, unit, activation in zip(
            products, weights, biases, zeros, units, activations, strict=True
        )
    ]
    kernels = compile_kernels(graphs, level, tmp_path)
    cases = zip(products, kernels, weights, map(_and_zeros, biases, zeros), units, activations, strict=True)
    for p, kernel, matrices, added, unit, activation in cases:
        for place, each in zip((1, 3), unit, strict=False):
            matrices[place] = _meant(matrices[place], each)
        x = random_levels(rng, p.row_bits, count, k)
        x_scale = (rng.uniform(0, 4, count) / 2**p.row_bits).astype(np.float32)
        record = to_record(x, p.group)
        y = _run_gated(kernel, record, x_scale, n)
        expected = quantized_gated_linear(x, x_scale, *matrices, *added, activation=activation, group_size=p.group)
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6 * (1 + float(abs(expected).max())))
        np.testing.assert_array_equal(_run_gated(kernel, record, x_scale, n, threads=2), y)
        np.testing.assert_array_equal(_run_gated(kernel, record[-1:], x_scale[-1:], n), y[-1:])


def _and_zeros(biases: list[Array], zeros: list[Array | None], units: Sequence[Array] = ()) -> list[Array | None]:
    """The inputs of a gated product behind its matrices."""
    nothing: list[Array | None] = [None, None]
    if units:
        return [*(biases or nothing), *nothing, None, *units]
    return [*(biases or nothing), *zeros] if zeros else [*biases]


def _small_scales(rng: np.random.Generator, product: Product, n: int, k: int) -> Array:
    """So small that a gate is neither open nor shut everywhere."""
    scales = product.scales(rng, n, k)
    return scales if product.scale_type == np.int8 else scales / np.float32(64).astype(product.scale_type)


def test_a_product_that_could_overflow_and_a_group_without_sums_are_refused(rng: np.random.Generator) -> None:
    product = Product(8, 8, 0, np.float32)
    weight = np.zeros((1, 2**17), np.int8)
    with pytest.raises(BuildError, match="131071 is the most"):
        WeightLayout(_linear_graph(product, weight, np.ones(1, np.float32), np.ones(1, np.float32)))
    product = Product(4, 8, 40, np.float32)
    with pytest.raises(BuildError, match="group of 40"):
        WeightLayout(
            _linear_graph(product, random_weight(rng, 4, 8, 96), np.ones((8, 2), np.float32), np.ones(8, np.float32))
        )
