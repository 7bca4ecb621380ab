"""Products of plain weights of the cuda target, interpreted and on a GPU where there is one, against float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.spec import Constant, Variant
from tests.kernel.gpu.support.cuda_gpu import run_on_gpu
from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.oracles.gpu import linear as reference

from inflight.build.gpu_kernels.kernels.gated_linear import gated_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.linear import linear_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, MANY_ROWS, SOME_ROWS, workspace  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
NUMPY = {"fp32": np.float32, "fp16": np.float16}
TILES = [FEW_ROWS, SOME_ROWS, MANY_ROWS]


def launch(run: Any, function: str, variant: Variant, arrays: dict[str, Array], rows: int, cut: int = 0) -> None:
    """`cut`: the elements of k from one cut to the next, in place of what the tuning says."""
    tuning = SPECS[function].tune(90, variant)
    if cut:
        splits = -(-int(variant.constants["k"]) // cut)
        many = variant.constants["block_rows"] == MANY_ROWS
        chosen: dict[str, Constant] = {"split_k": cut, "splits": splits, "cuts": splits if many else 1}
        tuning = replace(tuning, constants={**tuning.constants, **chosen})
        run = partial(run, tuned=tuning.constants)
    sums, tiles = workspace(variant, tuning, rows, 2 if function == "gated_linear" else 1)
    arrived = np.zeros(tiles, np.int32)
    scratch = {"partial": np.full(sums, np.nan, np.float32), "arrived": arrived}
    run(function, variant, {**arrays, **scratch, "rows": rows}, {"rows": rows})
    assert not arrived.any(), "the next launch counts from zero"


class Product:
    """Random rows and weights, and what `linear` makes of the first rows of them."""

    def __init__(self, rng: np.random.Generator, rows: int, n: int, k: int, dtype: str) -> None:
        self.x = rng.standard_normal((rows, k)).astype(NUMPY[dtype])
        self.weight = rng.standard_normal((n, k)).astype(NUMPY[dtype])
        self.bias = rng.standard_normal(n).astype(NUMPY[dtype])
        self.residual = rng.standard_normal((rows, n)).astype(np.float32)
        self.dtype, self.n, self.k = dtype, n, k

    def times(
        self,
        run: Any,
        *,
        tile: int,
        rows: slice = slice(None),
        has_bias: bool = False,
        adds: bool = False,
        cut: int = 0,
    ) -> Array:
        x, residual = self.x[rows].copy(), self.residual[rows].copy()
        kinds: dict[str, Any] = {"has_bias": has_bias, "adds": adds}
        variant = linear_variant(self.n, self.k, tile=tile, x=self.dtype, bias=self.dtype, **kinds)
        y = residual if adds else np.full_like(residual, np.nan)
        arrays = {"x": x, "weight": self.weight, "bias": self.bias, "residual": residual, "y": y}
        launch(run, "linear", variant, arrays, len(x), cut)
        return y

    def assert_right(self, y: Array, *, has_bias: bool, adds: bool) -> None:
        exact = reference.linear(self.x, self.weight, self.bias if has_bias else None) + adds * self.residual
        size = reference.linear(np.abs(self.x), np.abs(self.weight))
        assert (np.abs(y - exact) <= 2e-6 * (size + np.abs(exact) + 1)).all()


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_products_are_those_of_float64(rng: np.random.Generator, run: Any, tile: int, dtype: str) -> None:
    rows = int(rng.integers(1, 5 * tile // 4))
    product = Product(rng, rows, int(rng.integers(1, 200)), int(rng.integers(1, 300)), dtype)
    kinds: dict[str, Any] = {"has_bias": bool(rng.integers(2)), "adds": bool(rng.integers(2))}
    product.assert_right(product.times(run, tile=tile, **kinds), **kinds)


@pytest.mark.parametrize("cut", [64, 192])
def test_rows_have_the_same_bits_in_every_tile_wherever_the_inner_dimension_is_cut(
    rng: np.random.Generator, cut: int
) -> None:
    product = Product(rng, 18, 70, 450, "fp32")
    kinds: dict[str, Any] = {"has_bias": True, "adds": True}
    together = product.times(interpret, tile=MANY_ROWS, cut=cut, **kinds)
    product.assert_right(together, **kinds)
    for tile in (FEW_ROWS, SOME_ROWS):
        assert np.array_equal(product.times(interpret, tile=tile, cut=cut, **kinds), together)
    row = int(rng.integers(18))
    alone = product.times(interpret, tile=FEW_ROWS, cut=cut, rows=slice(row, row + 1), **kinds)
    assert np.array_equal(alone[0], together[row])


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu", "relu2"])
def test_gated_products_are_those_of_float64(rng: np.random.Generator, run: Any, tile: int, activation: str) -> None:
    rows, n, k = int(rng.integers(1, 20)), int(rng.integers(1, 100)), int(rng.integers(1, 200))
    one, two = Product(rng, rows, n, k, "fp32"), Product(rng, rows, n, k, "fp32")
    has_bias = bool(rng.integers(2))
    variant = gated_variant(n, k, activation, tile=tile, has_bias=has_bias, x="fp32", bias="fp32", y="fp32")
    y = np.full((rows, n), np.nan, np.float32)
    arrays = {"x": one.x, "gate": one.weight, "up": two.weight, "gate_bias": one.bias, "up_bias": two.bias, "y": y}
    launch(run, "gated_linear", variant, arrays, rows)
    gate = reference.linear(one.x, one.weight, one.bias if has_bias else None)
    up = reference.linear(one.x, two.weight, two.bias if has_bias else None)
    exact = reference.activation(gate, activation) * up
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


def test_gated_products_have_the_same_bits_in_every_tile(rng: np.random.Generator) -> None:
    one, two = Product(rng, 17, 67, 200, "fp32"), Product(rng, 17, 67, 200, "fp32")
    results = []
    for tile in TILES:
        variant = gated_variant(67, 200, "silu", tile=tile, x="fp32", bias="fp32", y="fp32")
        y = np.full((17, 67), np.nan, np.float32)
        arrays = {"x": one.x, "gate": one.weight, "up": two.weight, "gate_bias": one.bias, "up_bias": two.bias, "y": y}
        launch(interpret, "gated_linear", variant, arrays, 17, cut=64)
        results.append(y)
    assert all(np.array_equal(result, results[0]) for result in results)
