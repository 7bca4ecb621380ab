"""Rows of integers as kernels/quantize.h lays them out, written and read here without it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.quantized_rows import FLOAT8_INTEGERS, row_bytes
from inflight.build.graph.values import new_value
from inflight.build.targets.cpu.compiler.cpu_levels import LEVELS as ALL_LEVELS
from inflight.build.targets.cpu.compiler.cpu_levels import CpuLevel, describe_native, native_level
from tests.kernel.cpu.harness import Array, several

# By the bits of a row's integers; those of 24 are 8-bit floats in steps of 2^-9.
ROW_TYPES = {8: ir.DataType.INT8, 16: ir.DataType.INT16, 24: FLOAT8_INTEGERS}


def runnable_levels() -> list[CpuLevel]:
    """Every level that this machine can run, its own first and the plainest last: each has its own dot product."""
    native, features = native_level(), describe_native()[2]
    return [level for level in ALL_LEVELS if level.triple == native.triple and set(level.features) <= features]


# A test of one level runs on the machine's own and on another one that is drawn: each takes the compiler seconds. Every
# level has its turn in the slow tests. `level` is a fixture (conftest.py).
LEVELS = pytest.mark.parametrize(
    "level",
    ["native", "another", *(pytest.param(level.name, marks=pytest.mark.slow) for level in ALL_LEVELS)],
    indirect=True,
)


def chosen_level(name: str, rng: np.random.Generator) -> CpuLevel:
    """The level that is meant by a name of LEVELS; the plainest, whose vectors are the shortest, is drawn most often.
    Skips where there is none."""
    own, *others = runnable_levels()
    if name == "native":
        return own
    if name != "another":
        named = [level for level in others if level.name == name]
        return named[0] if named else pytest.skip(f"{name} is this machine's own level, or more than it has")
    return several(others)[-1 if rng.random() < 0.5 else rng.integers(len(others))]


def integer_rows(name: str, width: int, bits: int) -> ir.Value:
    return new_value(name, ROW_TYPES[bits], ("T", width))


def row_scales(name: str) -> ir.Value:
    return new_value(name, ir.DataType.FLOAT, ("T",))


def empty_record(rows: int, width: int, bits: int) -> Array:
    """Memory for quantized rows, uint8 [rows, digits, bytes], full of noise."""
    size = row_bytes(width, ROW_TYPES[bits])
    return aligned(np.full((rows, bits // 8, size * 8 // bits), 0xA5, np.uint8))


def aligned(array: Array) -> Array:
    """A copy that starts at a multiple of 64 bytes."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def to_record(x: Array, group: int) -> Array:
    """Integers [T, K] (int8, int16, or int32 of 24 bits) as the products read them, with a sum for each `group` of k
    (0: for all)."""
    count, width = x.shape
    bits = min(8 * x.itemsize, 24)
    record = empty_record(count, width, bits)
    digits, rest = list[Array](), x.astype(np.int32)
    for _ in range(bits // 8):
        digits.insert(0, rest.astype(np.int8))
        rest = (rest - digits[0]) // 256
    sums_at = -(-width // 64) * 64
    for index, digit in enumerate(digits):
        record[:, index, :sums_at] = 0
        record[:, index, :width] = digit.view(np.uint8)
        starts = np.arange(0, width, group or width)
        sums = np.add.reduceat(digit.astype(np.int32), starts, axis=1, dtype=np.int32)
        record[:, index, sums_at : sums_at + 4 * len(starts)] = np.ascontiguousarray(sums).view(np.uint8)
    return record


def random_weight(rng: np.random.Generator, bits: int, n: int, k: int) -> Array:
    """Levels of every size, the extremes among them."""
    limit = 2 ** (bits - 1)
    weight = rng.integers(-limit, limit, (n, k))
    weight[rng.random((n, k)) < 0.2] = -limit
    return weight.astype(np.int8 if bits == 8 else ml_dtypes.int4)


def random_levels(rng: np.random.Generator, bits: int, count: int, k: int) -> Array:
    """Rows of every kind: random, zeros, and all at an extreme."""
    if bits == 24:
        return (random_weight8(rng, count, k).astype(np.float32) * 512).astype(np.int32)
    limit = 127 if bits == 8 else 127 * 256 + 127
    x = rng.integers(-limit, limit + 1, (count, k))
    x[rng.random(count) < 0.2] = 0
    x[rng.random(count) < 0.2] = limit
    x[rng.random(count) < 0.2] = -limit
    return x.astype(f"int{bits}")


def float8_value(name: str, width: int) -> ir.Value:
    return new_value(name, ir.DataType.FLOAT8E4M3FN, ("T", width))


def random_weight8(rng: np.random.Generator, n: int, k: int) -> Array:
    """Numbers of every size, subnormal ones and the extremes among them."""
    bits = rng.integers(0, 127, (n, k)).astype(np.uint8) | (rng.integers(0, 2, (n, k)) << 7).astype(np.uint8)
    return bits.view(ml_dtypes.float8_e4m3fn)
