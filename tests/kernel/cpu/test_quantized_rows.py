"""Rows to integers: alone and behind a norm; with the sums that products need."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.passes.rewrite import fused
from inflight.convert.quantization.schemes import RowDtype
from inflight.errors import BuildError
from tests.kernel.cpu.harness import Array, compile_kernels, operator, rows
from tests.kernel.cpu.quantized import LEVELS, empty_record, integer_rows, row_scales, runnable_levels, to_record
from tests.oracles.fused_quantized import quantize_rows, rms_norm_quantize

pytestmark = pytest.mark.kernel

# Values that share a sum; 0: all of a row.
GROUPS = (0, 16, 32, 48, 64, 80, 128)

BITS = pytest.mark.parametrize("bits", [8, 16])
EPSILON = 1e-5


def _row_type(bits: int) -> RowDtype | Literal["float8_integers"]:
    return "int8" if bits == 8 else "int16" if bits == 16 else "float8_integers"


def _read_by(y: ir.Value, y_scale: ir.Value, group: int) -> None:
    """Let a product in groups of `group` read the rows, so that sums are kept for it."""
    fused("QuantizedLinear", [y, y_scale, None, None], [rows("p", 4)], {"group_size": group})


def _random_rows(rng: np.random.Generator, count: int, width: int) -> Array:
    x = rng.standard_normal((count, width), np.float32) * rng.uniform(1e-3, 1e3, (count, 1)).astype(np.float32)
    x[rng.random(count) < 0.2] = 0
    return x.astype(np.float32)


def _assert_record(record: Array, levels: Array, group: int) -> None:
    """All that products read: digits, zeros behind them, sums."""
    expected = to_record(levels, group)
    width = levels.shape[1]
    used = -(-width // 64) * 64 + 4 * -(-width // (group or width))
    np.testing.assert_array_equal(record[:, :, :used], expected[:, :, :used])


def _levels_of(record: Array, width: int) -> Array:
    digits = record[:, :, :width].view(np.int8).astype(np.int32)
    powers = 256 ** np.arange(digits.shape[1])[::-1]
    levels: Array = np.tensordot(powers, digits, (0, 1))
    return levels


@LEVELS
@BITS
def test_rows_are_quantized_as_defined_and_do_not_see_their_company(
    level: Any, bits: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 500)), int(rng.integers(1, 40))
    x = _random_rows(rng, count, width)
    x[0] = 1e-42
    group = int(rng.choice(GROUPS))
    inputs = [x, x.astype(ml_dtypes.bfloat16)]
    graphs = []
    for given in inputs:
        y, y_scale = integer_rows("y", width, bits), row_scales("y_scale")
        dtype = ir.tensor(given[:0]).dtype
        graphs.append(operator("QuantizeRows", [rows("x", width, dtype)], [y, y_scale], {"type": f"int{bits}"}))
        _read_by(y, y_scale, group)
    for kernel, given in zip(compile_kernels(graphs, level, tmp_path), inputs, strict=True):
        expected, expected_scale = quantize_rows(given, type=_row_type(bits))
        for threads in (1, 2):
            record, scale = empty_record(count, width, bits), np.full(count, np.nan, np.float32)
            kernel.run(count, given, record, scale, threads=threads)
            np.testing.assert_array_equal(scale, expected_scale)
            _assert_record(record, expected, group)
        alone, scale = empty_record(1, width, bits), np.full(1, np.nan, np.float32)
        kernel.run(1, given[-1:].copy(), alone, scale)
        _assert_record(alone, expected[-1:], group)


@LEVELS
@pytest.mark.parametrize(("bits", "stored"), [(8, False), (16, False), (8, True), (24, True)])
def test_rows_are_read_in_an_order_scaled_by_factors_and_rounded_by_a_stored_scale(
    level: Any, bits: int, stored: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count, group = int(rng.integers(1, 500)), int(rng.integers(1, 40)), int(rng.choice(GROUPS))
    x = _random_rows(rng, count, width)
    factors = rng.standard_normal(width, np.float32).astype(ml_dtypes.bfloat16 if rng.random() < 0.5 else np.float32)
    scale = np.array(rng.uniform(0.01, 1), np.float32) if stored else None
    order = rng.permutation(width).astype(np.int32)
    inputs, graphs = ([x, x.astype(ml_dtypes.bfloat16)], [])
    cases = list(itertools.product(inputs, ((None, None), (factors, None), (None, order), (factors, order))))
    for given, read in cases:
        y, y_scale = integer_rows("y", width, bits), row_scales("y_scale")
        source = rows("x", width, ir.tensor(given[:0]).dtype)
        constants = [scale, None, None, *read]
        graphs.append(operator("QuantizeRows", [source, *constants], [y, y_scale], {"type": _row_type(bits)}))
        _read_by(y, y_scale, group)
    for kernel, (given, read) in zip(compile_kernels(graphs, level, tmp_path), cases, strict=True):
        expected, expected_scale = quantize_rows(given, scale, None, None, *read, type=_row_type(bits))
        packed = iter(kernel.packed)
        constants = [None if each is None else next(packed) for each in read] if kernel.packed else []
        for threads in (1, 2):
            record, found = empty_record(count, width, bits), np.full(count, np.nan, np.float32)
            kernel.run(count, given, *constants, record, found, threads=threads)
            np.testing.assert_array_equal(found, expected_scale)
            _assert_record(record, expected, group)


@LEVELS
def test_norms_round_by_a_stored_scale(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    width, count = int(rng.integers(1, 500)), int(rng.integers(1, 40))
    x, weight = _random_rows(rng, count, width), rng.standard_normal(width, np.float32)
    stored = np.array(rng.uniform(0.005, 0.05), np.float32)
    y, y_scale = integer_rows("y", width, 8), row_scales("y_scale")
    attributes = {"epsilon": EPSILON, "type": "int8"}
    graph = operator("RMSNormQuantize", [rows("x", width), weight, stored], [y, y_scale], attributes)
    (norm,) = compile_kernels([graph], level, tmp_path)
    record, scale = empty_record(count, width, 8), np.full(count, np.nan, np.float32)
    norm.run(count, x, norm.packed[0], record, scale)
    levels, _ = rms_norm_quantize(x, weight, stored, epsilon=EPSILON, type="int8")
    np.testing.assert_array_equal(scale, np.full(count, stored))
    assert abs(_levels_of(record, width) - levels).max() <= 1
    _assert_record(record, _levels_of(record, width).astype(np.int8), 0)


@LEVELS
@BITS
def test_norms_quantize_what_they_normalize(level: Any, bits: int, rng: np.random.Generator, tmp_path: Path) -> None:
    width, count = int(rng.integers(1, 500)), int(rng.integers(1, 40))
    weight = rng.standard_normal(width, np.float32)
    x = _random_rows(rng, count, width)
    attributes = {"epsilon": EPSILON, "type": _row_type(bits)}
    y, y_scale = integer_rows("y", width, bits), row_scales("y_scale")
    graph = operator("RMSNormQuantize", [rows("x", width), weight], [y, y_scale], attributes)
    (norm,) = compile_kernels([graph], level, tmp_path)

    record, scale = empty_record(count, width, bits), np.full(count, np.nan, np.float32)
    norm.run(count, x, norm.packed[0], record, scale, threads=2)
    levels, expected_scale = rms_norm_quantize(x, weight, epsilon=EPSILON, type=_row_type(bits))
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-5)
    assert abs(_levels_of(record, width) - levels).max() <= (1 if bits == 8 else 2)
    _assert_record(record, _levels_of(record, width).astype(levels.dtype), 0)

    alone = empty_record(1, width, bits)
    norm.run(1, x[-1:].copy(), norm.packed[0], alone, scale[-1:].copy())
    np.testing.assert_array_equal(alone[0], record[-1])


@LEVELS
def test_a_value_that_is_not_finite_is_seen_in_the_scale(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    width = int(rng.integers(1, 100))
    x = _random_rows(rng, 2, width)
    x[0, rng.integers(width)], x[1, rng.integers(width)] = np.nan, -np.inf
    graphs = []
    for constants in ([], [np.array(0.5, np.float32)]):
        outputs = [integer_rows("y", width, 8), row_scales("y_scale")]
        graphs.append(operator("QuantizeRows", [rows("x", width), *constants], outputs, {"type": "int8"}))
    own, stored = compile_kernels(graphs, level, tmp_path)
    scale = np.zeros(2, np.float32)
    own.run(2, x, empty_record(2, width, 8), scale)
    assert np.isnan(scale[0]) and np.isposinf(scale[1])
    stored.run(2, x, empty_record(2, width, 8), scale)
    assert np.isnan(scale).all()


def test_readers_with_groups_of_two_sizes_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    y, y_scale = integer_rows("y", 96, 8), row_scales("y_scale")
    graph = operator("QuantizeRows", [rows("x", 96)], [y, y_scale], {"type": "int8"})
    for group in (32, 64):
        _read_by(y, y_scale, group)
    with pytest.raises(BuildError, match=r"groups of \[32, 64\]"):
        compile_kernels([graph], runnable_levels()[0], tmp_path)


@LEVELS
def test_rows_of_bfloat16_are_rounded_once_and_have_no_scale(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 500)), int(rng.integers(2, 40))
    x = _random_rows(rng, count, width)
    weight, factors = rng.standard_normal((2, width), np.float32)
    cases: list[tuple[str, list[Array | None], dict[str, float]]] = [
        ("QuantizeRows", [], {}),
        ("QuantizeRows", [None, None, None, factors], {}),
        ("RMSNormQuantize", [weight], {"epsilon": EPSILON}),
    ]
    graphs = [
        operator(
            kind,
            [rows("x", width), *given],
            [rows("y", width, ir.DataType.BFLOAT16), row_scales("y_scale")],
            {"type": "bfloat16", **more},
        )
        for kind, given, more in cases
    ]
    normed = x / np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=1, keepdims=True) + EPSILON) * weight
    for kernel, expected in zip(compile_kernels(graphs, level, tmp_path), (x, x * factors, normed), strict=True):
        y, scale = np.full(x.shape, 7, ml_dtypes.bfloat16), np.full(count, np.nan, np.float32)
        weights: list[Any] = list(kernel.packed) or [None]
        kernel.run(count, x, *weights, y, scale, threads=2)
        assert (scale == 1).all()
        if expected is normed:
            np.testing.assert_allclose(y.astype(np.float32), expected, rtol=2**-8, atol=1e-30)
        else:
            np.testing.assert_array_equal(y, quantize_rows(expected, type="bfloat16")[0])
