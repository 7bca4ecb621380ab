"""Latent attention: products of heads, cache writes and attention over rows of which the first elements are values."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.values import new_value
from inflight.build.targets.cpu.compiler.cpu_levels import native_level
from tests.engines.built_engine import fresh_rng
from tests.kernel.cpu.attention_shapes import EPSILON, FLOAT8, MAX_SEQ_LEN, TOLERANCE
from tests.kernel.cpu.harness import PARTIAL_ROWS, Array, compile_kernels, levels, of_levels, operator, rows, several
from tests.kernel.cpu.test_amx import BFLOAT16, MODEL, check_instructions
from tests.kernel.cpu.test_attention import Step
from tests.oracles.fused_attention import head_linear, latent_cache_write, paged_latent_attention

pytestmark = pytest.mark.kernel

LEVELS = pytest.mark.parametrize("level", levels(), ids=lambda level: str(level.name))
DTYPES: list[Any] = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, FLOAT8]
# Types of which every level is held to the bits of this machine's own.
_SAME_BITS = [np.float32, np.float16, np.int8]


@dataclass(frozen=True)
class Shape:
    dtype: Any
    num_heads: int
    rank: int
    rotary_size: int
    plain_size: int
    tokens_per_block: int
    scale: float
    factor: float  # of a cache of 8-bit floats

    @classmethod
    def random(cls, rng: np.random.Generator, dtype: Any) -> Shape:
        rank, rotary = int(rng.choice([3, 16, 33, 64, 200])), 2 * int(rng.integers(1, 20))
        return cls(
            dtype=dtype,
            num_heads=int(rng.choice([1, 3, 16, 60])),
            rank=rank,
            rotary_size=rotary,
            plain_size=int(rng.integers(1, 60)),
            tokens_per_block=int(rng.choice([16, 32, 80, 128])),
            scale=float(np.float32((rank + rotary) ** -0.5)),
            factor=float(np.float32(rng.choice([1, 0.37]))) if dtype == FLOAT8 else 1.0,
        )

    @property
    def width(self) -> int:
        return self.rank + self.rotary_size

    @property
    def row_bytes(self) -> int:
        """Of a token, as kernels/cache.h lays keys out."""
        if self.dtype == np.int8:
            return -(-self.width // 4) * 4 + 4
        group = 2 if self.dtype in (ml_dtypes.bfloat16, FLOAT8) else 1
        return -(-self.width // group) * group * np.dtype(self.dtype).itemsize

    @property
    def attributes(self) -> dict[str, Any]:
        sizes = {"num_heads": self.num_heads, "rank": self.rank, "rotary_size": self.rotary_size}
        return {**sizes, "key_factor": self.factor}


class Attention:
    """The kernels of one layer with their cache, and beside them the references with theirs."""

    def __init__(
        self,
        shape: Shape,
        rng: np.random.Generator,
        level: Any,
        directory: Path,
        num_blocks: int,
        preamble: str = "",
    ) -> None:
        self.shape = shape
        angles = rng.uniform(0, 6, (MAX_SEQ_LEN, shape.rotary_size // 2))
        self.norm = rng.standard_normal(shape.rank, np.float32)
        self.tables = [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
        graphs = [self._write_graph(), self._attention_graph()]
        self.write, self.attend = compile_kernels(graphs, level, directory, preamble)
        # Whatever used the memory before: large and small numbers, infinities, NaN.
        self.cache = rng.integers(0, 256, num_blocks * shape.tokens_per_block * shape.row_bytes, np.uint8)
        padded = -(-shape.rank // 16) * 16
        self.partials = np.empty(PARTIAL_ROWS * shape.num_heads * (padded + 2), np.float32)
        width = shape.width + (4 if shape.dtype == np.int8 else 0)
        self.reference = np.zeros((num_blocks, 1, shape.tokens_per_block, width), shape.dtype)

    def _places(self) -> list[ir.Value]:
        names = {"positions": ("T",), "sequence_of_row": ("T",), "block_tables": ("S", "blocks_per_sequence")}
        return [new_value(name, ir.DataType.INT32, shape) for name, shape in names.items()]

    def _cache(self, name: str = "key_cache.0") -> ir.Value:
        dtype = ir.tensor(np.zeros(1, self.shape.dtype)).dtype
        return new_value(name, dtype, ("blocks", 1, self.shape.tokens_per_block, self.shape.width))

    def _write_graph(self) -> ir.Graph:
        s = self.shape
        inputs = [rows("q", s.num_heads * (s.plain_size + s.rotary_size)), rows("met", s.num_heads * s.rank)]
        return operator(
            "LatentCacheWrite",
            [*inputs, rows("kv", s.width), self.norm, *self.tables, *self._places(), self._cache()],
            [rows("queries", s.num_heads * s.width), self._cache("key_cache.0.written")],
            {**s.attributes, "epsilon": EPSILON},
        )

    def _attention_graph(self) -> ir.Graph:
        s = self.shape
        return operator(
            "PagedLatentAttention",
            [rows("queries", s.num_heads * s.width), self._cache(), *self._places()],
            [rows("y", s.num_heads * s.rank)],
            {**s.attributes, "scale": s.scale},
        )

    def step(self, step: Step, given: tuple[Array, ...], threads: int = 1) -> npt.NDArray[np.float32]:
        count, s = len(given[0]), self.shape
        queries = np.full((count, s.num_heads * s.width), np.nan, np.float32)
        y = np.full((count, s.num_heads * s.rank), np.nan, np.float32)
        token_rows = ctypes.addressof(step.rows)
        self.write.run(token_rows, *given, *self.write.packed, queries, self.cache, threads=threads)
        self.attend.run(token_rows, queries, self.cache, self.cache, self.partials, y, None, threads=threads)
        return y

    def reference_step(self, step: Step, given: tuple[Array, ...]) -> npt.NDArray[np.float32]:
        places = (step.positions, step.sequence_of_row, step.block_tables)
        attributes = self.shape.attributes
        inputs = (*given, self.norm, *self.tables, *places, self.reference)
        queries, _ = latent_cache_write(*inputs, **attributes, epsilon=EPSILON)
        return paged_latent_attention(queries, self.reference, *places, **attributes, scale=self.shape.scale)


@functools.cache
def shape_of_run(dtype: Any) -> Shape:
    """Drawn once in each run: tests of one shape share what was compiled for it."""
    return Shape.random(fresh_rng(), dtype)


@pytest.mark.parametrize(("level", "dtype"), of_levels(DTYPES, _SAME_BITS))
def test_attention_is_as_defined_and_a_row_sees_neither_company_nor_chunks_nor_threads(
    level: Any, dtype: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    check_attention(shape_of_run(dtype), level, rng, tmp_path)


@pytest.mark.skipif(not native_level().triple.startswith("x86_64"), reason="the model needs x86-64's headers")
def test_attention_in_tiles_of_amx_is_as_defined(rng: np.random.Generator, tmp_path: Path) -> None:
    """Over a model of its instructions in C."""
    attention = check_attention(Shape.random(rng, BFLOAT16), native_level(), rng, tmp_path, MODEL)
    check_instructions(attention.attend.library)


def check_attention(
    shape: Shape, level: Any, rng: np.random.Generator, directory: Path, preamble: str = ""
) -> Attention:
    """Some sequences together against the reference, and each alone and in chunks with the same bits."""
    print(shape)
    dtype = shape.dtype
    lengths = [int(x) for x in rng.integers(1, MAX_SEQ_LEN, int(rng.integers(1, 4)))]
    per_sequence = -(-MAX_SEQ_LEN // shape.tokens_per_block)
    tables = rng.permutation(per_sequence * len(lengths)).reshape(len(lengths), per_sequence)
    given = [random_rows(rng, shape, length) for length in lengths]
    attention = Attention(shape, rng, level, directory, tables.size, preamble)
    whole = Step([(0, length, table) for length, table in zip(lengths, tables, strict=True)])
    everything = tuple(np.concatenate(parts) for parts in zip(*given, strict=True))
    expected = attention.reference_step(whole, everything)
    y = attention.step(whole, everything, threads=2)
    np.testing.assert_allclose(y, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for index, (length, table) in enumerate(zip(lengths, tables, strict=True)):
        attention.cache[:] = rng.integers(0, 256, attention.cache.size, np.uint8)
        start, parts = 0, []
        while start < length:
            count = 1 if rng.random() < 0.5 else int(rng.integers(1, length - start + 1))
            chunk = tuple(part[start : start + count].copy() for part in given[index])
            parts.append(attention.step(Step([(start, count, table)]), chunk, threads=int(rng.integers(1, 4))))
            start += count
        np.testing.assert_array_equal(np.concatenate(parts), y[whole.starts[index] : whole.starts[index + 1]])
    return attention


def random_rows(rng: np.random.Generator, shape: Shape, count: int) -> tuple[Array, ...]:
    """Queries, what their heads' matrices made of them, and rows."""
    widths = (shape.num_heads * (shape.plain_size + shape.rotary_size), shape.num_heads * shape.rank, shape.width)
    return tuple(rng.standard_normal((count, width), np.float32) for width in widths)


@pytest.mark.parametrize("dtype", _SAME_BITS, ids=lambda dtype: str(np.dtype(dtype)))
def test_every_level_of_an_architecture_gives_the_same_bits(
    dtype: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    shape, length, seed = shape_of_run(dtype), int(rng.integers(1, MAX_SEQ_LEN)), int(rng.integers(2**32))
    table = rng.permutation(-(-MAX_SEQ_LEN // shape.tokens_per_block))
    given, step = random_rows(rng, shape, length), Step([(0, length, table)])
    first, *others = (
        Attention(shape, np.random.default_rng(seed), level, tmp_path, table.size).step(step, given, threads=2)
        for level in several(levels())
    )
    for other in others:
        np.testing.assert_array_equal(other, first)


@LEVELS
def test_every_head_meets_its_own_matrix_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    cases, graphs = [], []
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        heads, outputs, inputs = int(rng.integers(1, 9)), int(rng.integers(1, 200)), int(rng.integers(1, 200))
        size, count = inputs + int(rng.integers(0, 30)), int(rng.integers(2, 200))
        weight = (rng.standard_normal((heads, outputs, inputs)) * inputs**-0.5).astype(dtype)
        act = dtype if dtype == ml_dtypes.bfloat16 else np.float32
        x = rng.standard_normal((count, heads * size)).astype(act)
        kind = ir.tensor(np.zeros(1, act)).dtype
        given, made = [rows("x", heads * size, kind), weight], [rows("y", heads * outputs)]
        graphs.append(operator("HeadLinear", given, made, {"row_size": size}))
        cases.append((x, weight, heads * outputs, size))
    for kernel, (x, weight, width, size) in zip(compile_kernels(graphs, level, tmp_path), cases, strict=True):

        def run(x: Array, threads: int = 1, kernel: Any = kernel, width: int = width) -> npt.NDArray[np.float32]:
            y = np.full((len(x), width), np.nan, np.float32)
            kernel.run(len(x), np.ascontiguousarray(x), kernel.packed[0], y, threads=threads)
            return y

        y = run(x)
        np.testing.assert_allclose(y, head_linear(x, weight, row_size=size), rtol=1e-4, atol=1e-4)
        for threads in (2, 3):
            np.testing.assert_array_equal(run(x, threads), y)
        start, stop = sorted(rng.integers(0, len(x) + 1, 2))
        np.testing.assert_array_equal(run(x[start:stop], 2), y[start:stop])
