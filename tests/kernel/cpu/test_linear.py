"""Matrix products against NumPy; the same bits for a row alone, in company, on any number of threads."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import ACTIVATIONS, activation_type
from inflight.build.passes.rewrite import fused
from tests.kernel.cpu.harness import (
    Array,
    Kernel,
    compile_kernels,
    initializer,
    levels,
    many_rows,
    operator,
    rows,
    several,
)
from tests.network.support import chosen, some_of
from tests.oracles.fused_floats import gated_linear, linear

pytestmark = pytest.mark.kernel

DTYPES: list[Any] = [np.float32, np.float16, ml_dtypes.bfloat16]
# A product whose rows are rounded to bfloat16 beforehand is exact but for the order of its float32 sums.
TOLERANCE = 2e-6


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return rng.standard_normal(shape, np.float32).astype(dtype)


def _act(dtype: Any) -> ir.DataType:
    return activation_type(ir.tensor(np.zeros(1, dtype)).dtype)


def _linear_graph(weight: Array, bias: Array | None) -> ir.Graph:
    n, k = weight.shape
    inputs = [rows("x", k, _act(weight.dtype)), weight, bias, rows("residual", n)]
    return operator("Linear", inputs, [rows("y", n)], {})


def _run_linear(
    kernel: Kernel, x: Array, n: int, threads: int = 1, residual: Array | None = None, in_place: bool = False
) -> npt.NDArray[np.float32]:
    y = np.full((len(x), n), np.nan, np.float32)
    added = None if residual is None else np.array(residual, np.float32, order="C")
    if added is not None and in_place:
        y = added
    weight, *bias = kernel.packed
    kernel.run(len(x), np.ascontiguousarray(x), weight, bias[0] if bias else None, added, y, threads=threads)
    return y


def _close(actual: Array, expected: Array, k: int) -> None:
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE * np.sqrt(k), atol=TOLERANCE * k)


@pytest.mark.parametrize("level", levels(), ids=lambda level: str(level.name))
def test_linear_is_the_product_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    n, k = (int(x) for x in rng.integers(1, 300, 2))
    weights = [_random(rng, (n, k), dtype) for dtype in DTYPES]
    biases = [_random(rng, (n,), weight.dtype) if rng.random() < 0.5 else None for weight in weights]
    graphs = [_linear_graph(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    for kernel, weight, bias in zip(compile_kernels(graphs, level, tmp_path), weights, biases, strict=True):
        x = _random(rng, (int(rng.integers(1, 130)), k), _act(weight.dtype).numpy())
        y = _run_linear(kernel, x, n)
        _close(y, linear(x, weight, bias), k)
        np.testing.assert_array_equal(_run_linear(kernel, x, n, threads=2), y)
        threads, order = many_rows(rng, len(x))
        np.testing.assert_array_equal(_run_linear(kernel, x[order], n, threads), y[order])
        start, stop = sorted(rng.integers(0, len(x) + 1, 2))
        np.testing.assert_array_equal(_run_linear(kernel, x[start:stop], n), y[start:stop])
        np.testing.assert_array_equal(_run_linear(kernel, x[-1:], n), y[-1:])
        residual = _random(rng, y.shape, np.float32)
        for in_place in (False, True):
            total = _run_linear(kernel, x, n, threads=2, residual=residual, in_place=in_place)
            np.testing.assert_array_equal(total, residual + y)


def _router_graph(weight: Array, bias: Array | None) -> ir.Graph:
    """A product without a residual, whose outputs are the logits of experts."""
    n, k = weight.shape
    graph = operator("Linear", [rows("x", k), weight, bias], [rows("y", n)], {})
    fc, proj = (initializer(np.zeros((n, 2, width), np.float32)) for width in (2, 1))
    outputs = [rows("z", 2), rows("scratch", 1)]
    graph.append(fused("Experts", [rows("rows", 2), fc, proj, graph[0].outputs[0]], outputs, {}))
    return graph


@pytest.mark.parametrize("level", levels(), ids=lambda level: str(level.name))
def test_a_router_in_strips_has_the_bits_that_it_has_in_panels(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    n, k = int(rng.integers(1, 140)), int(rng.integers(1, 1500))
    weight = _random(rng, (n, k), np.float32)
    bias = _random(rng, (n,), np.float32) if rng.random() < 0.5 else None
    graphs = [_router_graph(weight, bias), _linear_graph(weight, bias)]
    strips, panels = compile_kernels(graphs, level, tmp_path)
    assert strips.packed[0].nbytes == 4 * k * 16 * -(-n // 16)
    for count in (1, int(rng.integers(2, 7)), int(rng.integers(7, 130))):
        x = _random(rng, (count, k), np.float32)
        expected = _run_linear(panels, x, n)
        _close(expected, linear(x, weight, bias), k)
        for threads in (1, 3):
            y = np.full((count, n), np.nan, np.float32)
            strips.run(count, x, strips.packed[0], None if bias is None else strips.packed[1], y, threads=threads)
            np.testing.assert_array_equal(y, expected)


def test_a_row_of_many_stretches_and_blocks_has_the_same_bits_alone(rng: np.random.Generator, tmp_path: Path) -> None:
    n, k = int(rng.integers(65, 200)), int(rng.integers(4700, 5000))
    weights = [_random(rng, (n, k), dtype) for dtype in (np.float32, ml_dtypes.bfloat16)]
    graphs = [_linear_graph(weight, None) for weight in weights]
    for kernel, weight in zip(compile_kernels(graphs, levels()[0], tmp_path), weights, strict=True):
        x = _random(rng, (int(rng.integers(97, 300)), k), _act(weight.dtype).numpy())
        y = _run_linear(kernel, x, n, threads=int(rng.integers(1, 5)))
        _close(y, linear(x, weight, None), k)
        for start, stop in ((0, 1), (3, 12), (90, 100)):
            np.testing.assert_array_equal(_run_linear(kernel, x[start:stop], n, threads=3), y[start:stop])
        residual = _random(rng, y.shape, np.float32)
        np.testing.assert_array_equal(_run_linear(kernel, x, n, 2, residual, in_place=True), residual + y)


def test_float32_and_float16_products_are_the_same_bits_on_every_level(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    n, k = (int(x) for x in rng.integers(1, 200, 2))
    weights = [_random(rng, (n, k), dtype) for dtype in (np.float32, np.float16)]
    x = _random(rng, (17, k), np.float32)
    results = []
    for level in several(levels()):
        kernels = compile_kernels([_linear_graph(weight, None) for weight in weights], level, tmp_path)
        results.append([_run_linear(kernel, x, n) for kernel in kernels])
    np.testing.assert_array_equal(results[0], results[1])


def _gated_graph(weights: tuple[Array, Array], biases: list[Array], activation: str) -> ir.Graph:
    act = _act(weights[0].dtype)
    n, k = weights[0].shape
    inputs = [rows("x", k, act), *weights, *biases]
    return operator("GatedLinear", inputs, [rows("y", n, act)], {"activation": activation})


def _gates() -> list[Any]:
    """Every activation on this machine's own level, and one that is drawn on the plainest."""
    own, *others = levels()
    return [*product([own], ACTIVATIONS), *(some_of(1, product(others, ACTIVATIONS)) if others else [])]


@pytest.mark.parametrize("case", _gates())
def test_gated_linear_is_the_activated_gate_times_up(case: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    level, activation = chosen(case, rng)
    n, k = (int(x) for x in rng.integers(1, 200, 2))
    pairs = [(_random(rng, (n, k), dtype), _random(rng, (n, k), dtype)) for dtype in DTYPES]
    biases = [[_random(rng, (n,), dtype) for _ in range(2 * rng.integers(2))] for dtype in DTYPES]
    graphs = [_gated_graph(pair, given, activation) for pair, given in zip(pairs, biases, strict=True)]
    for kernel, pair, given in zip(compile_kernels(graphs, level, tmp_path), pairs, biases, strict=True):
        act = _act(pair[0].dtype).numpy()
        x = _random(rng, (int(rng.integers(1, 60)), k), act)
        results = []
        for part, threads in ((x, 1), (x, 2), (x[-1:], 1)):
            y = np.zeros((len(part), n), act)
            packed = (*kernel.packed, None)[:2]
            kernel.run(len(part), np.ascontiguousarray(part), *packed, y, threads=threads)
            results.append(y)
        expected = gated_linear(x, *pair, *given, activation=activation)
        rounding = 2**-8 if act != np.float32 else 0.0
        scale = float(np.abs(expected).max()) + 1.0
        np.testing.assert_allclose(
            results[0].astype(np.float32), expected, rtol=rounding + TOLERANCE * k, atol=TOLERANCE * k * scale
        )
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0][-1:], results[2])


def test_float32_gates_are_the_same_bits_on_every_level(rng: np.random.Generator, tmp_path: Path) -> None:
    n, k = (int(x) for x in rng.integers(1, 200, 2))
    pair = (_random(rng, (n, k), np.float32), _random(rng, (n, k), np.float32))
    biases = [_random(rng, (n,), np.float32) for _ in pair]
    graphs = [_gated_graph(pair, biases, activation) for activation in ACTIVATIONS]
    x = _random(rng, (17, k), np.float32)
    results = []
    for level in several(levels()):
        y = np.zeros((len(graphs), len(x), n), np.float32)
        for out, kernel in zip(y, compile_kernels(graphs, level, tmp_path), strict=True):
            kernel.run(len(x), x, *kernel.packed, out)
        results.append(y)
    np.testing.assert_array_equal(results[0], results[1])
