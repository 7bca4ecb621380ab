"""Ragged batches over a paged cache for the cuda target's attention kernels, and the kernels run on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.prefill_tiles import prefill_tiles
from inflight.build.gpu_kernels.spec import Variant
from inflight.build.gpu_kernels.variants import FLOAT8, INT8, PLAIN
from tests.oracles.gpu.paged_attention import cache_numbers, paged_attention

Array: TypeAlias = npt.NDArray[Any]
Run: TypeAlias = Callable[[str, Variant, Mapping[str, "Array | int"], Mapping[str, int]], None]


@dataclass(frozen=True)
class Chunk:
    """The rows of one sequence in a step: `length` tokens behind `past` of them."""

    past: int
    length: int


@dataclass
class Batch:
    """One step's rows and the caches they see. Memory of the cache that holds no token is NaN where it can be."""

    variant: Variant
    arrays: dict[str, Array]
    chunks: Sequence[Chunk]

    def constant(self, name: str) -> Any:
        return self.variant.constants[name]

    @property
    def rows(self) -> int:
        return len(self.arrays["positions"])

    def take(self, chunks: Sequence[int]) -> Batch:
        """The same sequences and cache, with the rows of these chunks alone."""
        starts = np.cumsum([0, *(chunk.length for chunk in self.chunks)])
        rows = np.concatenate([np.arange(starts[chunk], starts[chunk + 1]) for chunk in chunks])
        picked = {name: self.arrays[name][rows] for name in ("q", "positions", "sequence_of_row")}
        return Batch(self.variant, {**self.arrays, **picked}, [self.chunks[chunk] for chunk in chunks])


def random_batch(rng: np.random.Generator, variant: Variant, chunks: Sequence[Chunk], dtype: Any) -> Batch:
    """`dtype` is that of q, and of a plain cache."""
    heads, kv_heads, size, per_block = (
        int(variant.constants[name]) for name in ("num_heads", "num_kv_heads", "head_size", "tokens_per_block")
    )
    lengths = [chunk.past + chunk.length for chunk in chunks]
    needed = [-(-length // per_block) for length in lengths]
    blocks = sum(needed) + 2
    tables = np.full((len(chunks), max(needed, default=0) + 1), blocks + 10**6, np.int32)
    free = rng.permutation(blocks).tolist()
    written = np.zeros((blocks, per_block), bool)
    for index, length in enumerate(lengths):
        tables[index, : needed[index]] = [free.pop() for _ in range(needed[index])]
        tokens = np.arange(length)
        written[tables[index, tokens // per_block], tokens % per_block] = True
    shape = (blocks, kv_heads, per_block, size)
    arrays: dict[str, Array] = {"block_tables": tables}
    for name in ("key", "value"):
        cache, scales = _random_cache(rng, shape, int(variant.constants["cache_format"]), dtype, written)
        arrays |= {f"{name}_cache": cache, f"{name}_scales": scales}
    positions = [np.arange(chunk.past, chunk.past + chunk.length) for chunk in chunks]
    arrays["positions"] = np.concatenate([*positions, []]).astype(np.int32)
    arrays["sequence_of_row"] = np.repeat(np.arange(len(chunks)), [chunk.length for chunk in chunks]).astype(np.int32)
    arrays["q"] = (rng.standard_normal((len(arrays["positions"]), heads * size)) * 2).astype(dtype)
    return Batch(variant, arrays, chunks)


def _random_cache(
    rng: np.random.Generator, shape: tuple[int, ...], cache_format: int, dtype: Any, written: Array
) -> tuple[Array, Array]:
    if cache_format == PLAIN:
        cache = rng.standard_normal(shape).astype(dtype)
        cache[~np.broadcast_to(written[:, None], shape[:3])] = np.nan
        return cache, np.zeros(1, np.float32)
    levels = rng.integers(-127, 128, shape).astype(np.int8)
    if cache_format == FLOAT8:
        levels[(levels & 0x7F) == 0x7F] = 0  # NaN
        return levels, np.array([rng.uniform(0.004, 0.01)], np.float32)
    assert cache_format == INT8
    scales = rng.uniform(0.002, 0.03, shape[:3]).astype(np.float32)
    scales[~np.broadcast_to(written[:, None], shape[:3])] = np.nan
    return levels, scales


def expected(batch: Batch) -> tuple[Array, Array]:
    """The result in float64, and the same with magnitudes of values: what the errors of weights are multiplied with."""
    arrays, form = batch.arrays, int(batch.constant("cache_format"))
    keys = cache_numbers(arrays["key_cache"], arrays["key_scales"], form)
    values = cache_numbers(arrays["value_cache"], arrays["value_scales"], form)
    rows = [arrays[name] for name in ("positions", "sequence_of_row", "block_tables")]
    options = {name: batch.constant(name) for name in ("scale", "soft_cap", "window")}
    result = paged_attention(arrays["q"], keys, values, *rows, **options)
    return result, paged_attention(arrays["q"], keys, np.abs(values), *rows, **options)


def decode(run: Run, batch: Batch) -> Array:
    """y of `paged_decode` and `combine_splits`, every part of the partial results that no split writes being NaN."""
    heads, size = int(batch.constant("num_heads")), int(batch.constant("head_size"))
    greatest = int(batch.arrays["positions"].max(initial=0)) + 1
    splits = -(-greatest // int(batch.constant("split_tokens"))) + 1
    parts = {
        "partials": np.full((batch.rows, heads, splits, size), np.nan, np.float32),
        "maxima": np.full((batch.rows, heads, splits), np.nan, np.float32),
        "totals": np.full((batch.rows, heads, splits), np.nan, np.float32),
    }
    y = np.full_like(batch.arrays["q"], np.nan)
    arguments: dict[str, Array | int] = {
        **batch.arrays,
        **parts,
        "y": y,
        "splits": splits,
        "block_table_stride": _stride(batch),
    }
    sizes = {"rows": batch.rows, "splits": splits}
    run("paged_decode", batch.variant, arguments, sizes)
    names = ("num_heads", "head_size", "window", "split_tokens")
    combined = Variant({"act": batch.variant.types["act"]}, {name: batch.constant(name) for name in names})
    run("combine_splits", combined, arguments, sizes)
    return y


def prefill(run: Run, batch: Batch, block_m: int) -> Array:
    """y of `paged_prefill`; `block_m` is that of its tuning."""
    group = int(batch.constant("num_heads")) // int(batch.constant("num_kv_heads"))
    begins, ends = prefill_tiles([chunk.length for chunk in batch.chunks], block_m // group)
    y = np.full_like(batch.arrays["q"], np.nan)
    arguments: dict[str, Array | int] = {
        **batch.arrays,
        "tile_begins": begins,
        "tile_ends": ends,
        "y": y,
        "block_table_stride": _stride(batch),
    }
    run("paged_prefill", batch.variant, arguments, {"tiles": len(begins)})
    return y


def _stride(batch: Batch) -> int:
    return int(batch.arrays["block_tables"].shape[1])
