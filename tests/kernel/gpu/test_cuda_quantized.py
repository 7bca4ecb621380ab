"""Rounded rows and products with quantized weights of the cuda target, interpreted, against the fused operators."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.spec import Constant
from inflight.convert.quantization.multiples import MOST_MULTIPLE
from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.oracles import fused_quantized as oracle
from tests.oracles.gpu import linear as reference

from inflight.build.gpu_kernels.kernels import quantized_linear as kernel  # isort: skip
from inflight.build.gpu_kernels.kernels import quantized_tiles as tiles  # isort: skip
from inflight.build.gpu_kernels.kernels.quantize_rows import quantize_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.split_sums import MANY_ROWS, row_tiles, workspace  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
FLOAT8 = ml_dtypes.float8_e4m3fn
NOTHING = np.zeros(1, np.float32)
# Weights, rows, what shares a scale, inputs of a group. Groups of int4 have multiples of a unit at times.
KINDS = [
    ("int8", "plain", tiles.OUTPUT, 0),
    ("int8", "int8", tiles.OUTPUT, 0),
    ("float8", "float8", tiles.MATRIX, 0),
    ("float8", "float8", tiles.GROUP, 128),
    ("int4", "plain", tiles.GROUP, 32),
    ("int4", "int8", tiles.GROUP, 96),
    ("int4", "float8", tiles.GROUP, 128),
    ("uint4", "plain", tiles.GROUP, 64),
    ("int8", "int8", tiles.GROUP, 16),
    ("int4", "int8", tiles.GROUP, 16),
    ("int4", "plain", tiles.GROUP, 16),
    ("uint4", "plain", tiles.GROUP, 16),
]


@pytest.mark.parametrize("kind", ["int8", "float8", "fp32"])
def test_rows_are_rounded_as_the_operator_says(rng: np.random.Generator, kind: str) -> None:
    width = int(rng.integers(1, 300))
    x = (rng.standard_normal((5, width)) * 10.0 ** rng.integers(-3, 4, (5, 1))).astype(np.float32)
    x[2] = 0
    order = rng.permutation(width).astype(np.int32) if rng.random() < 0.5 else None
    factors = rng.random(width).astype(np.float32) if rng.random() < 0.5 else None
    stored = np.array([0.03], np.float32) if rng.random() < 0.5 and kind != "fp32" else None
    cuts = kind == "float8" and stored is None
    low, high = np.array([-2.5], np.float32), np.array([1.5], np.float32)
    ways: dict[str, Any] = {"orders": order is not None, "has_stored": stored is not None, "cuts": cuts}
    variant = quantize_variant(width, kind, **ways, factors=None if factors is None else "fp32")
    y, scale = np.zeros(x.shape, np.float32 if kind == "fp32" else np.int8), np.full(5, np.nan, np.float32)
    arrays = {"x": x, "order": NOTHING.astype(np.int32) if order is None else order, "low": low, "high": high}
    arrays |= {"factors": NOTHING if factors is None else factors, "stored": NOTHING if stored is None else stored}
    interpret("quantize_rows", variant, {**arrays, "y": y, "y_scale": scale}, {"rows": 5})
    if kind == "fp32":
        ordered = x if order is None else x[:, order]
        assert np.array_equal(y, ordered if factors is None else ordered * factors)
        return
    limits: dict[str, Any] = {"low": low[0], "high": high[0]} if cuts else {}
    limits |= {"scale": None if stored is None else stored[0], "factors": factors, "order": order}
    levels, scales = oracle.quantize_rows(x, **limits, type="float8_e4m3fn" if kind == "float8" else "int8")
    assert np.array_equal(scale, scales)
    assert np.array_equal(y.view(levels.dtype).astype(np.float32), levels.astype(np.float32))


class Product:
    """Random rows and weights of a kind, and what `quantized_linear` makes of them."""

    def __init__(self, rng: np.random.Generator, kind: tuple[str, str, int, int], n: int, k: int, rows: int) -> None:
        self.weights, self.rounded, self.shares, self.group_size = kind
        self.n, self.k = n, k
        groups = -(-k // (self.group_size or k))
        self.x: Array = rng.standard_normal((rows, k)).astype(np.float16)
        if self.rounded == "int8":
            self.x = rng.integers(-127, 128, (rows, k)).astype(np.int8)
        elif self.rounded == "float8":
            self.x = np.clip(100 * self.x, -448, 448).astype(FLOAT8)
        self.x_scale = rng.random(rows).astype(np.float32) if self.rounded != "plain" else np.ones(rows, np.float32)
        bits = 4 if self.weights in ("int4", "uint4") else 8
        least = 0 if self.weights == "uint4" else -(1 << bits - 1)
        self.weight: Array = rng.integers(least, least + (1 << bits), (n, k)).astype(np.int8)
        if self.weights == "float8":
            self.weight = np.clip(100 * rng.standard_normal((n, k)), -448, 448).astype(FLOAT8)
        shape = {tiles.MATRIX: (1,), tiles.OUTPUT: (n,), tiles.GROUP: (n, groups)}[self.shares]
        self.scale = (rng.random(shape) + 0.1).astype(np.float32)
        grouped = self.shares == tiles.GROUP
        self.unit = None
        if self.weights == "int4" and rng.random() < 0.5:
            self.scale = rng.integers(-MOST_MULTIPLE, MOST_MULTIPLE + 1, shape).astype(np.int8)
            self.unit, grouped = rng.random(n).astype(np.float32), False
        self.zero = rng.standard_normal((n, groups)).astype(np.float32) if grouped and rng.random() < 0.5 else None
        self.codebook = (
            rng.standard_normal(16).astype(np.float16).astype(np.float32) if self.weights == "uint4" else None
        )
        self.bias = rng.standard_normal(n).astype(np.float32) if rng.random() < 0.5 else None
        self.residual = rng.standard_normal((rows, n)).astype(np.float32)

    def times(self, *, ends: int, cut: int, rows: slice = slice(None)) -> Array:
        """By the kernel that a launch of so many rows takes; the inner dimension is cut at multiples of `cut`."""
        x, y = self.x[rows].copy(), self.residual[rows].copy()
        tile = next(tile for most, tile in row_tiles("fp16") if most is None or len(x) <= most)
        ways: dict[str, Any] = {"shares": self.shares, "group_size": self.group_size, "ends": ends, "x": "fp16"}
        ways |= {name: None if getattr(self, name) is None else "fp32" for name in ("zero", "bias")}
        ways |= {"has_unit": self.unit is not None, "weight_scale": "fp32" if self.unit is None else "i8"}
        variant = kernel.quantized_variant(self.n, self.k, self.weights, self.rounded, tile=tile, **ways)
        tuning, splits = SPECS["quantized_linear"].tune(90, variant), -(-self.k // cut)
        chosen: dict[str, Constant] = {"split_k": cut, "splits": splits, "cuts": splits if tile == MANY_ROWS else 1}
        tuning = replace(tuning, constants={**tuning.constants, **chosen})
        sums, tiles = workspace(variant, tuning, len(x))
        arrays = {
            "x": x.view(np.int8) if self.rounded == "float8" else x,
            "x_scale": self.x_scale[rows].copy(),
            "weight": self._stored(),
            "weight_scale": self.scale,
            **{name: _given(getattr(self, name)) for name in ("unit", "zero", "codebook", "bias")},
            **dict.fromkeys(("residual", "y"), y),
            "partial": np.full(sums, np.nan, np.float32),
            "arrived": np.zeros(tiles, np.int32),
        }
        run = partial(interpret, tuned=tuning.constants)
        run("quantized_linear", variant, {**arrays, "rows": len(x)}, {"rows": len(x)})
        assert not arrays["arrived"].any(), "the next launch counts from zero"
        return y

    def _stored(self) -> Array:
        if self.weights in ("int8", "float8"):
            return self.weight.view(np.int8)
        halves = np.pad(self.weight.view(np.uint8) & 15, ((0, 0), (0, self.k % 2)))
        return np.asarray(halves[:, 0::2] | halves[:, 1::2] << 4).view(np.int8)

    def expected(self, ends: int) -> Array:
        scale = self.scale if self.unit is None else self.scale * self.unit[:, None]
        x = self.x.astype(np.float32) if self.rounded == "plain" else self.x
        rows = (x, self.x_scale, self.weight, scale, self.bias, self.zero)
        product = oracle.quantized_linear(*rows, codebook=self.codebook, group_size=self.group_size)
        if ends == kernel.GATES:
            with np.errstate(over="ignore"):
                return reference.activation(product, "silu") * self.residual
        return product + self.residual if ends == kernel.ADDS else product


def _given(array: Array | None) -> Array:
    return NOTHING if array is None else array


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_products_are_those_of_the_operator_and_a_row_has_the_same_bits_in_any_company(
    rng: np.random.Generator, kind: tuple[str, str, int, int]
) -> None:
    n, k, rows = int(rng.integers(1, 90)), int(rng.integers(1, 400)), 300
    product, ends = Product(rng, kind, n, k, rows), int(rng.integers(3))
    cut = (64 if product.unit is not None else kind[3] or 64) * int(rng.integers(1, 3))
    many = product.times(ends=ends, cut=cut)
    expected = product.expected(ends)
    assert np.abs(many - expected).max() <= 2e-5 * (np.abs(expected).max() + 1)
    for company in (1, 16, 17, 100):
        first = int(rng.integers(rows - company))
        part = slice(first, first + company)
        assert np.array_equal(product.times(ends=ends, cut=cut, rows=part), many[part]), f"{company} rows"
