"""Products with weights that are looked up, against NumPy: the same bits on every machine and in any company."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import ACTIVATIONS
from inflight.build.targets.cpu.codebook import GREATEST, digits_of
from inflight.convert.quantization.codebooks import CODEBOOKS, INTEGER_FACTORS
from inflight.errors import BuildError
from tests.kernel.cpu.harness import Array, Kernel, compile_kernels, operator, rows, several
from tests.kernel.cpu.quantized import LEVELS, integer_rows, random_levels, row_scales, runnable_levels, to_record
from tests.oracles.fused_floats import gate
from tests.oracles.fused_quantized import quantized_linear

pytestmark = pytest.mark.kernel


@dataclass(frozen=True)
class Product:
    """One product: numbers that codes stand for, bits of rows, values per scale, the scales' type."""

    table: Array
    row_bits: int
    group: int
    scale_type: Any

    @classmethod
    def draw(cls, rng: np.random.Generator, table: Array, row_bits: int) -> Product:
        types = [np.float32, np.float16, ml_dtypes.bfloat16]
        return cls(table, row_bits, int(rng.choice([16, 32, 64, 128])), types[rng.integers(3)])

    def weights(self, rng: np.random.Generator, n: int, k: int) -> tuple[Array, Array]:
        """Codes [n, k], and scales of either sign."""
        codes = rng.integers(0, 16, (n, k)).astype(np.uint8).astype(ml_dtypes.uint4)
        shape = (n, -(-k // self.group))
        scales = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape) / float(abs(self.table).max())
        return codes, scales.astype(self.scale_type)

    def bound(self, x: Array, x_scale: Array, codes: Array, scales: Array) -> Array:
        """Of the difference: roundings of float32 sums, and of the numbers of a table of two bytes."""
        groups = len(scales[0]) + 1
        terms = quantized_linear(
            abs(x.astype(np.int32)), x_scale, codes, abs(scales), codebook=abs(self.table), group_size=self.group
        )
        step, digits = digits_of(self.table)
        if len(digits) == 1:
            return 2e-7 * groups * terms
        ones = np.zeros(codes.shape, np.uint8)
        flat = np.full(16, step / 2, np.float32)
        spread = quantized_linear(
            abs(x.astype(np.int32)), x_scale, ones, abs(scales), codebook=flat, group_size=self.group
        )
        return 2e-7 * groups * terms + 1.001 * spread

    def of(self, x: Array, x_scale: Array, codes: Array, scales: Array, bias: Array | None = None) -> Array:
        """The operator's result, without the products of lower bytes of numbers and of rows of 16 bits."""
        whole = quantized_linear(x, x_scale, codes, scales, bias, codebook=self.table, group_size=self.group)
        step, digits = digits_of(self.table)
        if len(digits) == 1 or self.row_bits == 8:
            return whole
        lower = (step * digits[1].astype(np.float64)).astype(np.float32)
        row = x.astype(np.int16).astype(np.int8).astype(np.int32)
        return whole - quantized_linear(row, x_scale, codes, scales, codebook=lower, group_size=self.group)


def products(rng: np.random.Generator) -> list[Product]:
    """A table of bytes and one of pairs of bytes, drawn anew; rows of 8 bits with one of them."""
    drawn = rng.integers(-127, 128, 16), rng.integers(-63, 64, 16), rng.standard_normal(16)
    single, small, double = (table.astype(np.float32) for table in drawn)
    whole = [CODEBOOKS[name] for name in INTEGER_FACTORS]
    others = [table for name, table in CODEBOOKS.items() if name not in INTEGER_FACTORS]
    tables = ([*whole, single, small][rng.integers(4)], [*others, double][rng.integers(3)])
    bits = [16, 16] if rng.random() < 0.5 else rng.permutation([8, 16]).tolist()
    return [Product.draw(rng, table, each) for table, each in zip(tables, bits, strict=True)]


def linear_graph(product: Product, codes: Array, scales: Array, bias: Array) -> ir.Graph:
    n, k = codes.shape
    x = [integer_rows("x", k, product.row_bits), row_scales("x_scale")]
    inputs = [*x, codes, scales, bias, None, rows("residual", n), product.table]
    return operator("QuantizedLinear", inputs, [rows("y", n)], {"group_size": product.group})


def run(
    kernel: Kernel, record: Array, x_scale: Array, n: int, threads: int = 1, residual: Array | None = None
) -> Array:
    y = np.full((len(record), n), np.nan, np.float32)
    kernel.run(len(record), record, np.ascontiguousarray(x_scale), *kernel.packed, residual, y, threads=threads)
    return y


@LEVELS
def test_the_product_is_that_of_the_numbers_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    n, k, count = int(rng.integers(1, 200)), int(rng.integers(1, 500)), int(rng.integers(1, 41))
    # Both on this machine's own level, one of them on another: each takes the compiler seconds.
    drawn = products(rng) if level == runnable_levels()[0] else [products(rng)[rng.integers(2)]]
    weights = [product.weights(rng, n, k) for product in drawn]
    bias = rng.standard_normal(n, np.float32)
    graphs = [linear_graph(product, *each, bias) for product, each in zip(drawn, weights, strict=True)]
    for product, kernel, each in zip(drawn, compile_kernels(graphs, level, tmp_path), weights, strict=True):
        x = random_levels(rng, product.row_bits, count, k)
        x_scale = rng.uniform(0, 0.1, count).astype(np.float32)
        record = to_record(x, product.group)
        y = run(kernel, record, x_scale, n)
        expected = product.of(x, x_scale, *each, bias)
        bound = product.bound(x, x_scale, *each) + 2e-7 * abs(bias)
        assert (abs(y - expected) <= bound).all(), product
        np.testing.assert_array_equal(run(kernel, record, x_scale, n, threads=2), y)
        for part in (slice(*sorted(rng.integers(0, count + 1, 2))), slice(count - 1, count)):
            np.testing.assert_array_equal(run(kernel, record[part], x_scale[part], n), y[part])
        residual = rng.standard_normal(y.shape, np.float32)
        np.testing.assert_array_equal(run(kernel, record, x_scale, n, 2, residual), residual + y)


def test_every_machine_gives_the_same_bits(rng: np.random.Generator, tmp_path: Path) -> None:
    n, k = int(rng.integers(1, 150)), int(rng.integers(100, 2000))
    drawn = [products(rng)[rng.integers(2)]]
    graphs = [linear_graph(p, *p.weights(rng, n, k), np.zeros(n, np.float32)) for p in drawn]
    records = [to_record(random_levels(rng, p.row_bits, 13, k), p.group) for p in drawn]
    x_scale = rng.uniform(0, 0.1, 13).astype(np.float32)
    results = [
        [run(kernel, record, x_scale, n) for kernel, record in zip(kernels, records, strict=True)]
        for kernels in (compile_kernels(graphs, level, tmp_path) for level in several(runnable_levels()))
    ]
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@LEVELS
def test_a_gated_product_is_the_activated_gate_times_up(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    n, k, count = int(rng.integers(1, 150)), int(rng.integers(1, 300)), int(rng.integers(1, 41))
    drawn = products(rng)[:1] if rng.random() < 0.5 else products(rng)[1:]
    activations = [str(rng.choice(ACTIVATIONS)) for _ in drawn]
    weights = [[*product.weights(rng, n, k), *product.weights(rng, n, k)] for product in drawn]
    graphs = [
        operator(
            "QuantizedGatedLinear",
            [integer_rows("x", k, p.row_bits), row_scales("x_scale"), *each, None, None, None, None, p.table],
            [rows("y", n)],
            {"activation": activation, "group_size": p.group},
        )
        for p, each, activation in zip(drawn, weights, activations, strict=True)
    ]
    kernels = compile_kernels(graphs, level, tmp_path)
    for p, kernel, each, activation in zip(drawn, kernels, weights, activations, strict=True):
        x = random_levels(rng, p.row_bits, count, k)
        # So small that a gate is neither open nor shut everywhere.
        x_scale = (rng.uniform(0, 1, count) / 2**p.row_bits).astype(np.float32)
        record, y = to_record(x, p.group), np.full((count, n), np.nan, np.float32)
        kernel.run(count, record, x_scale, *kernel.packed, None, y, threads=2)
        expected = gate(p.of(x, x_scale, *each[:2]), p.of(x, x_scale, *each[2:]), activation=activation)
        atol = 1e-4 * (1 + float(abs(expected).max()))
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=atol)
        alone = np.full((1, n), np.nan, np.float32)
        kernel.run(1, record[-1:], x_scale[-1:].copy(), *kernel.packed, None, alone)
        np.testing.assert_array_equal(alone, y[-1:])


def test_tables_of_integers_are_exact_and_others_within_half_a_step(rng: np.random.Generator) -> None:
    for name, table in CODEBOOKS.items():
        digits = digits_of(table)
        assert len(digits.bytes) == (1 if name in INTEGER_FACTORS else 2)
        if name in INTEGER_FACTORS:
            np.testing.assert_array_equal(digits.values, table)
            assert digits.step * INTEGER_FACTORS[name] == 1
    for table in (*CODEBOOKS.values(), (rng.standard_normal(16) * 10.0 ** rng.integers(-9, 9)).astype(np.float32)):
        digits = digits_of(table)
        assert (abs(digits.values - table) <= abs(table).max() / GREATEST * 0.5001).all()


def test_codes_without_a_codebook_and_a_codebook_that_is_none_are_refused(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    product = Product(CODEBOOKS["nf4"], 16, 32, np.float32)
    codes, scales = product.weights(rng, 3, 64)
    level = runnable_levels()[-1]
    for table, said in (
        (None, "no codebook"),
        (np.zeros(16, np.float32), "no table"),
        (np.ones(8, np.float32), "no table"),
    ):
        x = [integer_rows("x", 64, 16), row_scales("x_scale")]
        graph = operator(
            "QuantizedLinear", [*x, codes, scales, None, None, None, table], [rows("y", 3)], {"group_size": 32}
        )
        with pytest.raises(BuildError, match=said):
            compile_kernels([graph], level, tmp_path)
