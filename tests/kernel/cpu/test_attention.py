"""Rotation, cache writes and paged attention: random ragged steps against the references, in any company."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.values import new_value
from inflight.build.passes.paged_attention import READ_BEHIND
from tests.engines.built_engine import fresh_rng
from tests.kernel.cpu.attention_shapes import DTYPES, EPSILON, INT4, MAX_SEQ_LEN, Shape
from tests.kernel.cpu.harness import (
    PARTIAL_ROWS,
    Array,
    TokenRows,
    compile_kernels,
    levels,
    of_levels,
    operator,
    rows,
    several,
)
from tests.oracles.fused_operators import paged_attention, rope_cache_write

pytestmark = pytest.mark.kernel

# Types of which every level is held to the bits of this machine's own.
_SAME_BITS = [np.float32, np.float16, np.int8, INT4]


class Attention:
    """The two kernels of one layer with their cache, and beside them the references with theirs."""

    def __init__(
        self,
        shape: Shape,
        rng: np.random.Generator,
        level: Any,
        directory: Path,
        num_blocks: int,
        preamble: str = "",
    ) -> None:
        self.shape, self.num_blocks = shape, num_blocks
        angles = rng.uniform(0, 6, (MAX_SEQ_LEN, shape.rotary_size // 2))
        tables = [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
        self.tables: list[Array | None] = list(tables) if shape.rotary_size else [None, None]
        norms = rng.standard_normal((2, shape.head_size), np.float32)
        self.norms: list[Array | None] = list(norms) if shape.has_norms else [None, None]
        # Small beside the scores, like them, and far above.
        scale = np.float32(shape.sinks)
        self.sinks = rng.standard_normal(shape.num_heads, np.float32) * scale if shape.sinks else None
        # Behind the table lies what a kernel may read and must not use.
        self.bias = None
        if shape.bias:
            columns = 2 * MAX_SEQ_LEN - 1 if shape.bias == "distance" and not shape.causal else MAX_SEQ_LEN
            table = 3 * rng.standard_normal((shape.num_heads, columns), np.float32)
            self.bias = np.pad(table, ((0, 0), (0, READ_BEHIND)), constant_values=np.nan)
        self.columns = None
        if shape.distances:
            self.columns = rng.integers(0, shape.distances, 2 * MAX_SEQ_LEN - 1, np.int32)
        self.q_factors = rng.uniform(0.5, 2, MAX_SEQ_LEN).astype(np.float32) if shape.q_factors else None
        graphs = [self._write_graph(), self._attention_graph()]
        self.write, self.attend = compile_kernels(graphs, level, directory, preamble)
        padded = -(-shape.head_size // 16) * 16
        tokens = num_blocks * shape.num_kv_heads * shape.tokens_per_block
        # Whatever used the memory before: large and small numbers, infinities, NaN.
        self.keys, self.values = (
            rng.integers(0, 256, tokens * size, np.uint8) for size in (shape.key_bytes, shape.value_bytes)
        )
        reference = (num_blocks, shape.num_kv_heads, shape.tokens_per_block, shape.cache_width)
        self.partials = np.empty(PARTIAL_ROWS * shape.num_heads * (padded + 2), np.float32)
        self.reference_keys, self.reference_values = (np.zeros(reference, shape.dtype) for _ in range(2))

    def _cache(self, kind: str) -> ir.Value:
        s = self.shape
        dtype = ir.tensor(np.zeros(1, s.dtype)).dtype
        return new_value(f"{kind}_cache.0", dtype, ("blocks", s.num_kv_heads, s.tokens_per_block, s.cache_width))

    def _paging(self) -> list[ir.Value]:
        names = {"sequence_of_row": ("T",), "block_tables": ("S", "blocks_per_sequence")}
        return [new_value(name, ir.DataType.INT32, shape) for name, shape in names.items()]

    def _write_graph(self) -> ir.Graph:
        s = self.shape
        caches = [self._cache("key"), self._cache("value")]
        written = [new_value(f"{cache.name}.written", cache.dtype, cache.shape.dims) for cache in caches]
        positions = new_value("positions", ir.DataType.INT32, ("T",))
        inputs = [rows("qkv", (s.num_heads + 2 * s.num_kv_heads) * s.head_size), *self.norms, *self.tables]
        return operator(
            "RopeCacheWrite",
            [*inputs, positions, *self._paging(), *caches, self.q_factors],
            [rows("q", s.num_heads * s.head_size), *written],
            {**s.heads, "rotary_size": s.rotary_size, "epsilon": EPSILON, "norm_last": s.norm_last},
        )

    def _attention_graph(self) -> ir.Graph:
        s = self.shape
        positions = new_value("positions", ir.DataType.INT32, ("T",))
        width = s.num_heads * s.head_size
        return operator(
            "PagedAttention",
            [
                rows("q", width),
                self._cache("key"),
                self._cache("value"),
                positions,
                *self._paging(),
                self.sinks,
                self.bias,
                rows("distances", self.distances_width) if s.distances else None,
                self.columns,
            ],
            [rows("y", width)],
            {**s.heads, **s.scores},
        )

    @property
    def distances_width(self) -> int:
        """Of a row, which may have more behind what is read."""
        return 2 * self.shape.num_heads * self.shape.distances + 5

    def distances(self, qkv: Array) -> Array | None:
        """What rows make of distances: any function of a row alone."""
        if not self.shape.distances:
            return None
        weights = np.random.default_rng(5).standard_normal((qkv.shape[1], self.distances_width), np.float32)
        # Row by row, since BLAS sums several in another order.
        made: Array = np.stack([2 * row @ weights * np.float32(qkv.shape[1] ** -0.5) for row in qkv])
        return made

    def step(self, step: Step, qkv: Array, threads: int = 1) -> npt.NDArray[np.float32]:
        """Write and attend with the kernels."""
        count, width = len(qkv), self.shape.num_heads * self.shape.head_size
        q = np.full((count, width), np.nan, np.float32)
        y = np.full((count, width), np.nan, np.float32)
        packed = iter(self.write.packed)
        given = (*self.norms, *self.tables, self.q_factors)
        weights = [None if weight is None else next(packed) for weight in given]
        token_rows = ctypes.addressof(step.rows)
        distances = self.distances(qkv)
        self.write.run(token_rows, qkv, *weights, q, self.keys, self.values, threads=threads)
        packed = iter(self.attend.packed)
        added = [None if each is None else next(packed) for each in (self.sinks, self.bias)]
        added += [distances, None if self.columns is None else next(packed)]
        self.attend.run(token_rows, q, self.keys, self.values, self.partials, y, *added, threads=threads)
        return y

    def reference_step(self, step: Step, qkv: Array) -> npt.NDArray[np.float32]:
        heads: dict[str, Any] = self.shape.heads
        caches = (self.reference_keys, self.reference_values)
        places = (step.positions, step.sequence_of_row, step.block_tables)
        inputs: tuple[Any, ...] = (*self.norms, *self.tables, *places, *caches, self.q_factors)
        size, last = self.shape.rotary_size, self.shape.norm_last
        q, *_ = rope_cache_write(qkv, *inputs, **heads, rotary_size=size, epsilon=EPSILON, norm_last=last)
        options: dict[str, Any] = {**heads, **self.shape.scores}
        added = (self.sinks, self.bias, self.distances(qkv), self.columns)
        return paged_attention(q, *caches, *places, *added, **options)


class Step:
    """`chunks`: (context, count, block table) of each sequence of a ragged step."""

    def __init__(self, chunks: list[tuple[int, int, Array]]) -> None:
        counts = [count for _, count, _ in chunks]
        self.positions = np.concatenate([np.arange(c, c + n) for c, n, _ in chunks]).astype(np.int32)
        self.sequence_of_row = np.repeat(np.arange(len(chunks)), counts).astype(np.int32)
        self.block_tables = np.stack([table for *_, table in chunks]).astype(np.int32)
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        arrays = (self.positions, self.sequence_of_row, self.starts, self.block_tables)
        pointers = [array.ctypes.data for array in arrays]
        self.rows = TokenRows(len(self.positions), len(chunks), self.block_tables.shape[1], *pointers)


@functools.cache
def shape_of_run(dtype: Any) -> Shape:
    """Drawn once in each run: tests of one shape share what was compiled for it."""
    return Shape.random(fresh_rng(), dtype)


@pytest.mark.parametrize(("level", "dtype"), of_levels(DTYPES, _SAME_BITS))
def test_attention_is_as_defined_and_a_row_sees_neither_company_nor_chunks_nor_threads(
    level: Any, dtype: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    check_attention(shape_of_run(dtype), level, rng, tmp_path)


@pytest.mark.parametrize("dtype", [None, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES)], ids=str)
def test_a_query_and_a_key_each_add_a_number_for_their_distance(
    dtype: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Of one type drawn in each run; of all with --slow."""
    drawn = DTYPES[int(rng.integers(len(DTYPES)))] if dtype is None else dtype
    check_attention(Shape.disentangled(rng, drawn), levels()[0], rng, tmp_path)


def check_attention(
    shape: Shape, level: Any, rng: np.random.Generator, directory: Path, preamble: str = ""
) -> Attention:
    """Some sequences together against the reference, and each alone and in chunks with the same bits."""
    print(shape)
    lengths = [int(x) for x in rng.integers(1, MAX_SEQ_LEN, int(rng.integers(1, 4)))]
    per_sequence = -(-MAX_SEQ_LEN // shape.tokens_per_block)
    tables = rng.permutation(per_sequence * len(lengths)).reshape(len(lengths), per_sequence)
    width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    qkv = [rng.standard_normal((length, width), np.float32) for length in lengths]

    together = Attention(shape, rng, level, directory, tables.size, preamble)
    whole = Step([(0, length, table) for length, table in zip(lengths, tables, strict=True)])
    everything = np.concatenate(qkv)
    expected = together.reference_step(whole, everything)
    y = together.step(whole, everything, threads=2)
    np.testing.assert_allclose(y, expected, rtol=shape.tolerance, atol=shape.tolerance)

    for index, (length, table) in enumerate(zip(lengths, tables, strict=True)):
        _refill(together, rng)
        start, parts = 0, []
        while start < length:
            count = 1 if rng.random() < 0.5 else int(rng.integers(1, length - start + 1))
            count = count if shape.causal else length
            rows_of_chunk = qkv[index][start : start + count].copy()
            parts.append(together.step(Step([(start, count, table)]), rows_of_chunk, threads=int(rng.integers(1, 4))))
            start += count
        np.testing.assert_array_equal(np.concatenate(parts), y[whole.starts[index] : whole.starts[index + 1]])
    return together


@pytest.mark.parametrize("dtype", _SAME_BITS, ids=lambda dtype: str(np.dtype(dtype)))
def test_every_level_of_an_architecture_gives_the_same_bits(
    dtype: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    shape = shape_of_run(dtype)
    print(shape)
    length = int(rng.integers(1, MAX_SEQ_LEN))
    table = rng.permutation(-(-MAX_SEQ_LEN // shape.tokens_per_block))
    width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    qkv, seed, step = (
        rng.standard_normal((length, width), np.float32),
        int(rng.integers(2**32)),
        Step([(0, length, table)]),
    )
    first, *others = (
        Attention(shape, np.random.default_rng(seed), level, tmp_path, table.size).step(step, qkv, threads=2)
        for level in several(levels())
    )
    for other in others:
        np.testing.assert_array_equal(other, first)


def _refill(attention: Attention, rng: np.random.Generator) -> None:
    """Another sequence used the blocks in the meantime."""
    for cache in (attention.keys, attention.values):
        cache[:] = rng.integers(0, 256, cache.size, np.uint8)
