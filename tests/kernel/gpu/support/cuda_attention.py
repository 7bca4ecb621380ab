"""Ragged batches over a paged cache for the cuda target's attention kernels, and the kernels run on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.prefill_tiles import prefill_tiles
from inflight.build.gpu_kernels.spec import Variant
from inflight.build.gpu_kernels.variants import FLOAT8, INT8, PLAIN, combine_variant, listed_variant
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
    has_sinks: bool = False

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
        return replace(self, arrays={**self.arrays, **picked}, chunks=[self.chunks[chunk] for chunk in chunks])


@dataclass(frozen=True)
class Rounding:
    """A variant of `quantize_rows`, and its arrays: order, factors, stored, low, high, levels, level_scales."""

    variant: Variant
    arrays: Mapping[str, Array]


_NOTHING = np.zeros(1, np.float32)
_UNROUNDED: dict[str, Array] = dict.fromkeys(("factors", "stored", "low", "high", "level_scales"), _NOTHING)
_UNROUNDED |= {"order": np.zeros(1, np.int32), "levels": np.zeros(1, np.int8)}


def random_batch(
    rng: np.random.Generator, variant: Variant, chunks: Sequence[Chunk], dtype: Any, *, has_sinks: bool = False
) -> Batch:
    """`dtype` is that of q, and of a plain cache. What a table of biases has for no pair of tokens is NaN."""
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
    greatest = max(lengths, default=1)
    arrays["bias"] = np.full((heads, max(1, int(variant.constants["bias_width"]))), np.nan, np.float32)
    origin = int(variant.constants["bias_origin"])
    used = slice(origin + 1 - greatest, origin + 1) if origin >= 0 else slice(greatest)
    arrays["bias"][:, used] = rng.standard_normal(arrays["bias"][:, used].shape) * 3
    # Some below all scores, some above.
    arrays["sinks"] = (rng.standard_normal(heads) * 9 if has_sinks else np.full(heads, np.nan)).astype(np.float32)
    return Batch(variant, arrays, chunks, has_sinks)


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
    options = {name: batch.constant(name) for name in ("scale", "soft_cap", "window", "chunk", "bias_origin")}
    options |= {"bias": arrays["bias"] if batch.constant("has_bias") else None}
    options |= {"sinks": arrays["sinks"] if batch.has_sinks else None}
    result = paged_attention(arrays["q"], keys, values, *rows, **options)
    return result, paged_attention(arrays["q"], keys, np.abs(values), *rows, **options)


def decode(run: Run, batch: Batch, spare: int = 1, rounding: Rounding | None = None) -> Array:
    """y of `listed_decode`, every part of the partial results that no split writes being NaN. `spare`: more items than
    rows have. `rounding`: what is to be made of y, too."""
    heads, size, kv_heads = (int(batch.constant(name)) for name in ("num_heads", "head_size", "num_kv_heads"))
    before = items_before(batch.arrays["positions"], int(batch.constant("split_tokens")))
    items = int(before[-1]) + spare
    arguments: dict[str, Array | int] = {
        **batch.arrays,
        "first_items": before[:-1],
        "partials": np.full((items, heads, size), np.nan, np.float32),
        "maxima": np.full((items, heads), np.nan, np.float32),
        "totals": np.full((items, heads), np.nan, np.float32),
        "heads_arrived": (ended := np.zeros(batch.rows, np.int32)),
        **(rounding.arrays if rounding else _UNROUNDED),
        "arrived": (arrived := np.zeros((items, kv_heads, 2), np.int32)),
        "y": (y := np.full_like(batch.arrays["q"], np.nan)),
        "rows": batch.rows,
        "block_table_stride": _stride(batch),
    }
    levels = rounding.variant if rounding else None
    variant = listed_variant(batch.variant, has_sinks=batch.has_sinks, levels=levels)
    run("listed_decode", variant, arguments, {"rows": batch.rows, "items": items})
    assert not arrived.any() and not ended.any(), "the next launch counts from zero"
    return y


def decode_in_two(run: Run, batch: Batch) -> Array:
    """y of `paged_decode` and `combine_splits`, which the tensorrt target has; as `decode`."""
    heads, size = int(batch.constant("num_heads")), int(batch.constant("head_size"))
    splits = -(-int(batch.arrays["positions"].max() + 1) // int(batch.constant("split_tokens"))) + 1
    shape = (batch.rows, heads, splits)
    arguments: dict[str, Array | int] = {
        **batch.arrays,
        "partials": np.full((*shape, size), np.nan, np.float32),
        **{name: np.full(shape, np.nan, np.float32) for name in ("maxima", "totals")},
        "y": (y := np.full_like(batch.arrays["q"], np.nan)),
        "splits": splits,
        "block_table_stride": _stride(batch),
    }
    sizes = {"rows": batch.rows, "splits": splits}
    run("paged_decode", batch.variant, arguments, sizes)
    run("combine_splits", combine_variant(batch.variant, has_sinks=batch.has_sinks), arguments, sizes)
    return y


def items_before(positions: Array, split_tokens: int) -> Array:
    """int32 [rows + 1]: the splits of all rows in front of each, and of all."""
    before: Array = np.cumsum([0, *(positions // split_tokens + 1)]).astype(np.int32)
    return before


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
