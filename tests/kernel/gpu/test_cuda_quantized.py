"""Rounded rows and products with quantized weights of the cuda target, interpreted, against the fused operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.architectures import SMS
from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile import CompileJob, compile_kernels
from inflight.build.gpu_kernels.spec import Constant, Variant
from inflight.convert.quantization.multiples import MOST_MULTIPLE
from tests.kernel.gpu.support.cuda_gpu import run_on_gpu
from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.kernel.gpu.support.float8_chains import FLOAT8_PRODUCT, float8_chains
from tests.oracles import fused_quantized as oracle
from tests.oracles.gpu import linear as reference

from inflight.build.gpu_kernels.kernels import quantized_linear as kernel  # isort: skip
from inflight.build.gpu_kernels.kernels import quantized_tiles as tiles  # isort: skip
from inflight.build.gpu_kernels.kernels.quantize_rows import quantize_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, MANY_ROWS, row_tiles, workspace  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
FLOAT8 = ml_dtypes.float8_e4m3fn
NOTHING = np.zeros(1, np.float32)
Kind: TypeAlias = tuple[str, str, int, int]
Run: TypeAlias = Callable[[str, Variant, "Mapping[str, Array | int]", "Mapping[str, int]"], None]
# Weights, rows, what shares a scale, inputs of a group. Groups of int4 have multiples of a unit at times.
KINDS: list[Kind] = [
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
# Of those with float8 rows: groups that a step of 128 inputs is a part of, that are parts of it, and too small.
NATIVE = [
    *(kind for kind in KINDS if kind[1] == "float8"),
    *(("float8", "float8", tiles.GROUP, 48 * i) for i in (1, 2)),
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
    """Random rows and weights of a kind, and what `quantized_linear` makes of them; `native`: in float8 if it can."""

    def __init__(self, rng: np.random.Generator, kind: Kind, n: int, k: int, rows: int, *, native: bool) -> None:
        self.weights, self.rounded, self.shares, self.group_size = kind
        self.n, self.k, self.native = n, k, native
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

    def times(self, *, ends: int, cut: int = 0, rows: slice = slice(None), run: Run = interpret) -> Array:
        """By the kernel that a launch of so many rows takes; the inner dimension is cut at multiples of `cut` (0: where
        the kernel's tuning says)."""
        x, y = self.x[rows].copy(), self.residual[rows].copy()
        tile = next(tile for most, tile in row_tiles("fp16") if most is None or len(x) <= most)
        ways: dict[str, Any] = {"shares": self.shares, "group_size": self.group_size, "ends": ends, "x": "fp16"}
        ways |= {name: None if getattr(self, name) is None else "fp32" for name in ("zero", "bias")}
        ways |= {"native_float8": self.native, "has_unit": self.unit is not None}
        ways |= {"weight_scale": "fp32" if self.unit is None else "i8"}
        variant = kernel.quantized_variant(self.n, self.k, self.weights, self.rounded, tile=tile, **ways)
        spec = SPECS["quantized_linear"]
        tunings = [spec.tune(sm, variant) for sm in SMS]
        if cut:
            tuning, splits = spec.tune(90, variant), -(-self.k // cut)
            chosen: dict[str, Constant] = {"split_k": cut, "splits": splits, "cuts": splits if tile == MANY_ROWS else 1}
            tunings = [replace(tuning, constants={**tuning.constants, **chosen})]
            run = partial(interpret, tuned=tunings[0].constants)
        sums, tiles = (
            max(needs) for needs in zip(*(workspace(variant, each, len(x)) for each in tunings), strict=True)
        )
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


@pytest.mark.parametrize(
    ("kind", "native"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in NATIVE)], ids=str
)
def test_products_are_those_of_the_operator_and_a_row_has_the_same_bits_in_any_company(
    rng: np.random.Generator, kind: Kind, *, native: bool
) -> None:
    """The interpreter sums float8 exactly: so native products, too, are those of the operator."""
    n, k, rows = int(rng.integers(1, 90)), int(rng.integers(1, 400)), 300
    product, ends = Product(rng, kind, n, k, rows, native=native), int(rng.integers(3))
    step = tiles.PROMOTED_STEP if native else 64
    cut = (step if product.unit is not None else kind[3] or step) * int(rng.integers(1, 3))
    many = product.times(ends=ends, cut=cut)
    expected = product.expected(ends)
    assert np.abs(many - expected).max() <= 2e-5 * (np.abs(expected).max() + 1)
    for company in (1, 16, 17, 100):
        first = int(rng.integers(rows - company))
        part = slice(first, first + company)
        assert np.array_equal(product.times(ends=ends, cut=cut, rows=part), many[part]), f"{company} rows"


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("run", [interpret, run_on_gpu])
def test_float8_products_are_as_exact_as_their_sums_and_alike_for_few_and_many_rows(
    rng: np.random.Generator, run: Run, *, native: bool
) -> None:
    """With the tuning of the generation. 14 bits of a sum of 128 inputs are within 2e-5 of the magnitudes that are
    summed, those of a sum of 4,096 only within 3e-4 (docs/targets/cuda.md)."""
    n, k, rows = (200, 4096, 300) if run is run_on_gpu else (40, 700, 140)
    product = Product(rng, ("float8", "float8", tiles.OUTPUT, 0), n, k, rows, native=native)
    product.bias = None
    many = product.times(ends=kernel.STORES, run=run)
    x, weight = product.x.astype(np.float64), product.weight.astype(np.float64)
    scales = product.x_scale[:, None].astype(np.float64) * product.scale
    magnitudes = np.abs(x) @ np.abs(weight).T * scales
    inexact = native and run is run_on_gpu
    assert (np.abs(many - x @ weight.T * scales) <= (5e-5 if inexact else 2e-6) * magnitudes).all()
    for company in (1, 16, 100):
        part = slice(0, company)
        assert np.array_equal(product.times(ends=kernel.STORES, rows=part, run=run), many[part]), f"{company} rows"


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("kind", NATIVE, ids=str)
def test_cuts_and_steps_are_the_same_for_few_and_many_rows(rng: np.random.Generator, kind: Kind, sm: int) -> None:
    """Where they are not, neither are the sums."""
    weights, rounded, shares, group_size = kind
    n, k = (int(number) for number in rng.integers(1, 20000, 2))
    ways: dict[str, Any] = {"shares": shares, "group_size": group_size, "native_float8": True}
    tunings = [
        SPECS["quantized_linear"].tune(sm, kernel.quantized_variant(n, k, weights, rounded, tile=tile, **ways))
        for _, tile in row_tiles("i8")
    ]
    of_sums = {
        tuple(each.constants[name] for name in ("block_k", "split_k", "splits", "float8_sums")) for each in tunings
    }
    ((block_k, split_k, splits, float8_sums),) = of_sums
    assert int(split_k) % int(block_k) == 0 and (int(splits) - 1) * int(split_k) < k <= int(splits) * int(split_k)
    native = sm >= 89 and group_size % 32 == 0
    assert float8_sums == (0 if not native else tiles.KEPT if sm == 100 else tiles.PROMOTED)
    assert block_k == (min(group_size & -group_size or 128, 128) if native else min(group_size & -group_size or 64, 64))


def test_tensor_cores_sum_float8_of_one_step_and_float32_has_the_rest() -> None:
    """In the code for each generation: from zero over PROMOTED_STEP inputs, 32 an instruction, then additions; and on
    sm_100, which keeps as many bits as float32, the whole sum."""
    ways: dict[str, Any] = {"shares": tiles.OUTPUT, "native_float8": True}
    few, many = (
        kernel.quantized_variant(256, 512, "float8", "float8", tile=tile, **ways) for tile in (FEW_ROWS, MANY_ROWS)
    )
    jobs = [CompileJob(SPECS["quantized_linear"], variant, sm) for variant, sm in ((few, 89), (few, 120), (many, 90))]
    experts = SPECS["quantized_expert_linear"]
    jobs.append(CompileJob(experts, experts.variants[-1], 90))
    jobs += [CompileJob(SPECS["quantized_linear"], few, sm) for sm in (80, 100)]
    *promoted, widened, kept = compile_kernels(jobs, cache=ArtifactCache())
    for artifact in promoted:
        chains = float8_chains(artifact.ptx)
        assert chains and {length for length, _, _ in chains} == {tiles.PROMOTED_STEP // 32}, artifact.sm
        assert all(begins for _, begins, _ in chains), f"sums of sm_{artifact.sm} begin with what was there"
        assert all(added for _, _, added in chains), f"sums of sm_{artifact.sm} are not all added in float32"
    assert not FLOAT8_PRODUCT.search(widened.ptx) and "mma.sync" in widened.ptx
    assert "kind::f8f6f4" in kept.ptx
