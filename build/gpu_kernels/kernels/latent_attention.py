"""Latent attention over the paged cache (docs/formats/latent_attention.md): every head's query meets the one row that
a token has, all of it as the key, its first `rank` elements as the value.

Generated tokens are split over the context as in `listed_decode`; tiles of prompts walk theirs as in `paged_prefill`.
So a row's result depends on its own context alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.online_softmax import LIFT, LOG2_E, scaled, weighed
from inflight.build.gpu_kernels.kernels.paged_cache import FLOAT8, INT8, cache_rows, operand
from inflight.build.gpu_kernels.kernels.split_parts import (
    GROUP_SPLITS,
    LISTED,
    PARTS,
    parts_at_once,
    row_of_item,
    settled,
    write_heads,
    write_part,
)
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant
from inflight.build.gpu_kernels.variants import latent_constants, latent_types, padded

# Generations with more than 99 KiB of shared memory for a block.
_LARGE = (80, 90, 100)
# Heads of a generated token that share a program.
HEADS_AT_ONCE = 16


@triton.jit
def latent_decode(
    q,
    cache,
    scales,
    positions,
    sequence_of_row,
    block_tables,
    first_items,
    partials,
    maxima,
    totals,
    arrived,
    y,
    block_table_stride,
    rows,
    num_heads: tl.constexpr,
    rank: tl.constexpr,
    rotary_size: tl.constexpr,
    tokens_per_block: tl.constexpr,
    scale: tl.constexpr,
    split_tokens: tl.constexpr,
    most_rows: tl.constexpr,
    cache_format: tl.constexpr,
    native_float8: tl.constexpr,
    padded_rank: tl.constexpr,
    padded_rotary: tl.constexpr,
    heads_at_once: tl.constexpr,
    block_n: tl.constexpr,
    at_once: tl.constexpr,
    group_splits: tl.constexpr,
):
    """Program (item, `heads_at_once` heads): what `listed_decode` makes, for values of `rank` elements.

    q [rows, num_heads * (rank + rotary_size)] bfloat16, float16 or float32; cache and scales: `paged_cache`, with one
    head of rank + rotary_size. arrived int32 [items, parts of the heads, 2]; the others as in `listed_decode`.
    """
    tl.static_assert(split_tokens % block_n == 0, "a split begins with a tile of its own")
    item = tl.program_id(0)
    row, first_item = row_of_item(item, first_items, rows, most_rows)
    position = tl.load(positions + row)
    begin = (item - first_item) * split_tokens
    end = tl.minimum(begin + split_tokens, position + 1)
    if end > begin:
        head = tl.program_id(1) * heads_at_once + tl.arange(0, heads_at_once)
        there = head < num_heads
        heads = row.to(tl.int64) * num_heads + head
        parts: tl.constexpr = (rank, rotary_size, padded_rank, padded_rotary)
        queries = _queries(q, heads, there, parts)
        block_table = block_tables + tl.load(sequence_of_row + row).to(tl.int64) * block_table_stride
        row_positions = tl.full([heads_at_once], 0, tl.int32) + position
        state = (
            tl.full([heads_at_once], float("-inf"), tl.float32),
            tl.zeros([heads_at_once], tl.float32),
            tl.zeros([heads_at_once, padded_rank], tl.float32),
        )
        layout: tl.constexpr = (tokens_per_block, cache_format, native_float8, block_n)
        for start in range(begin, end, block_n):
            seen = (start, position, row_positions)
            state = _attend(queries, (cache, scales, block_table), state, seen, scale, parts, layout)
        state = (state[0], state[1], scaled(state[2], scales, cache_format))
        last = position // split_tokens
        if last == 0:
            write_heads(y, totals, state, row, head, there, num_heads, rank, padded_rank, False)
        else:
            written = (partials, maxima, totals)
            write_part(written, state, item, head, there, num_heads, rank, padded_rank)
            place = (first_item, tl.num_programs(1), tl.program_id(1))
            sizes: tl.constexpr = (num_heads, rank, padded_rank)
            splits = (item - first_item, 0, last)
            finished, maximum, total, output = settled(
                written, arrived, place, splits, head, there, sizes, at_once, group_splits
            )
            if finished:
                write_heads(y, totals, (maximum, total, output), row, head, there, num_heads, rank, padded_rank, False)


@triton.jit
def latent_prefill(
    q,
    cache,
    scales,
    positions,
    sequence_of_row,
    block_tables,
    tile_begins,
    tile_ends,
    y,
    block_table_stride,
    num_heads: tl.constexpr,
    rank: tl.constexpr,
    rotary_size: tl.constexpr,
    tokens_per_block: tl.constexpr,
    scale: tl.constexpr,
    cache_format: tl.constexpr,
    native_float8: tl.constexpr,
    padded_rank: tl.constexpr,
    padded_rotary: tl.constexpr,
    num_kv_heads: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
):
    """One program per tile and part of the heads: y [rows, num_heads * rank] for the tile's rows.

    The heads are cut into `num_kv_heads` equal parts, as if each had a KV head of its own: that leaves a tile room for
    several tokens. Tiles are those of `paged_prefill`, the other arguments `latent_decode`'s.
    """
    tile = tl.program_id(0)
    begin = tl.load(tile_begins + tile)
    end = tl.load(tile_ends + tile)
    if begin < end:
        group: tl.constexpr = num_heads // num_kv_heads
        packed = tl.arange(0, block_m)
        columns = tl.arange(0, padded_rank)
        heads = (begin + packed // group).to(tl.int64) * num_heads + tl.program_id(1) * group + packed % group
        there = packed // group < end - begin
        parts: tl.constexpr = (rank, rotary_size, padded_rank, padded_rotary)
        queries = _queries(q, heads, there, parts)
        block_table = block_tables + tl.load(sequence_of_row + begin).to(tl.int64) * block_table_stride
        least = tl.load(positions + begin)
        last = least + end - begin - 1
        row_positions = tl.minimum(least + packed // group, last)
        state = (
            tl.full([block_m], float("-inf"), tl.float32),
            tl.zeros([block_m], tl.float32),
            tl.zeros([block_m, padded_rank], tl.float32),
        )
        layout: tl.constexpr = (tokens_per_block, cache_format, native_float8, block_n)
        for start in range(0, last + 1, block_n):
            rows = (start, last, row_positions)
            state = _attend(queries, (cache, scales, block_table), state, rows, scale, parts, layout)
        _, total, output = state
        result = scaled(output, scales, cache_format) / total[:, None]
        inside = there[:, None] & (columns < rank)[None, :]
        tl.store(y + heads[:, None] * rank + columns[None, :], result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _queries(q, heads, there, parts: tl.constexpr):
    """The two parts of queries: what meets latents [M, padded_rank], and what meets turned keys [M, padded_rotary]."""
    width: tl.constexpr = parts[0] + parts[1]
    of_heads = q + heads[:, None] * width
    columns = tl.arange(0, parts[2])
    tail = tl.arange(0, parts[3])
    latent = tl.load(of_heads + columns[None, :], mask=there[:, None] & (columns < parts[0])[None, :], other=0.0)
    turned = tl.load(of_heads + parts[0] + tail[None, :], mask=there[:, None] & (tail < parts[1])[None, :], other=0.0)
    return latent, turned


@triton.jit
def _attend(queries, cache, state, rows, scale: tl.constexpr, parts: tl.constexpr, layout: tl.constexpr):
    """The state of `online_softmax.attend` after one tile more; rows = (its first token, the last that may be read,
    row_positions)."""
    latent_query, turned_query = queries
    stored, scales, block_table = cache
    start, last, row_positions = rows
    width: tl.constexpr = parts[0] + parts[1]
    cache_format: tl.constexpr = layout[1]
    tokens = start + tl.arange(0, layout[3])
    written = (tokens <= last)[:, None]
    places = cache_rows(block_table, start, last, 0, 1, layout[0], layout[3])
    columns = tl.arange(0, parts[2])
    tail = tl.arange(0, parts[3])
    at = stored + places[:, None] * width
    # Memory that no token was written to may hold NaN.
    latents = tl.load(at + columns[None, :], mask=written & (columns < parts[0])[None, :], other=0)
    latents = operand(latents, latent_query.dtype, cache_format, layout[2])
    turned = tl.load(at + parts[0] + tail[None, :], mask=written & (tail < parts[1])[None, :], other=0)
    turned = operand(turned, latent_query.dtype, cache_format, layout[2])
    scores = tl.dot(turned_query, tl.trans(turned), input_precision="ieee")
    scores = tl.dot(latent_query, tl.trans(latents), scores, input_precision="ieee")
    factor = scale * LOG2_E
    if cache_format == INT8:
        of_tokens = tl.load(scales + places, mask=tokens <= last, other=0.0)[None, :]
        scores = scores * of_tokens
    if cache_format == FLOAT8:
        factor = factor * tl.load(scales)
    scores = tl.where(tokens[None, :] <= row_positions[:, None], scores, float("-inf"))
    weights, decay, maximum, total = weighed(scores, factor, state[0], state[1])
    if cache_format == INT8:
        weights = weights * (of_tokens * LIFT)
    output = tl.dot(weights.to(latent_query.dtype), latents, state[2] * decay[:, None], input_precision="ieee")
    return maximum, total, output


def tune_decode(sm: int, variant: Variant) -> Tuning:
    """The sums of a few heads fill the registers; a row of the cache that is on its way fills shared memory."""
    single = variant.types["act"] == "fp32"
    constants = _padded(sm, variant) | {"heads_at_once": HEADS_AT_ONCE, "block_n": 16 if single else 32}
    at_once = parts_at_once(HEADS_AT_ONCE, int(constants["padded_rank"]))
    constants |= {"group_splits": GROUP_SPLITS, "at_once": at_once}
    return Tuning(num_warps=8, num_stages=2 if sm in _LARGE and not single else 1, constants=constants)


def tune_prefill(sm: int, variant: Variant) -> Tuning:
    """Of the heads as many as divide them, and fit into a tile, share a program. Generations 90 and 100 multiply out of
    shared memory, which leaves registers for larger tiles."""
    single, heads = variant.types["act"] == "fp32", int(variant.constants["num_heads"])
    block_m, block_n = (16, 16) if single else (64, 32) if sm in (90, 100) else (32, 32 if sm in _LARGE else 16)
    group = max(size for size in range(1, min(heads, block_m) + 1) if heads % size == 0)
    blocks: dict[str, Constant] = {"num_kv_heads": heads // group, "block_m": block_m, "block_n": block_n}
    num_stages = 2 if sm in _LARGE and not single else 1
    return Tuning(num_warps=4 if single else 8, num_stages=num_stages, constants=_padded(sm, variant) | blocks)


def _padded(sm: int, variant: Variant) -> dict[str, Constant]:
    rank, rotary = int(variant.constants["rank"]), int(variant.constants["rotary_size"])
    return {"native_float8": sm >= 89, "padded_rank": padded(rank), "padded_rotary": padded(rotary)}


def latent_variant(
    num_heads: int,
    rank: int,
    rotary_size: int,
    *,
    kv: str = "bf16",
    act: str = "bf16",
    tokens_per_block: int = 64,
    scale: float | None = None,
    split_tokens: int = 0,
    most_rows: int = 256,
) -> Variant:
    """`kv` and `act` as in `attention_variant`; `split_tokens` and `most_rows` are of decoding alone. `scale` is
    1 / sqrt(192) unless given, that of DeepSeek-V3 without yarn."""
    constants = latent_constants(num_heads, rank, rotary_size, kv=kv, tokens_per_block=tokens_per_block)
    constants["scale"] = 192**-0.5 if scale is None else scale
    constants |= {"split_tokens": split_tokens, "most_rows": padded(most_rows)} if split_tokens else {}
    return Variant(latent_types(kv, act), constants)


def _variants(*, decode: bool) -> tuple[Variant, ...]:
    """DeepSeek-V3 with every cache, GLM-4.7-Flash, and float32."""
    split = 256 if decode else 0
    return (
        *(latent_variant(128, 512, 64, kv=kv, split_tokens=split) for kv in ("bf16", "float8", "int8")),
        latent_variant(20, 512, 64, kv="fp16", act="fp16", tokens_per_block=32, split_tokens=split),
        latent_variant(6, 33, 6, kv="fp32", act="fp32", tokens_per_block=16, split_tokens=split),
    )


_CACHED = (Argument("q", "*{act}"), Argument("cache", "*{kv}"), Argument("scales", "*fp32"))
_PAGING = tuple(Argument(name, "*i32") for name in ("positions", "sequence_of_row", "block_tables"))
SPECS = (
    KernelSpec(
        module=__name__,
        function="latent_decode",
        arguments=(*(*_CACHED, *_PAGING, *LISTED, *PARTS),),
        grid=((Extent("items"),), (Extent("num_heads", "heads_at_once"),)),
        tune=tune_decode,
        variants=_variants(decode=True),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="latent_prefill",
        arguments=(
            *(*_CACHED, *_PAGING),
            Argument("tile_begins", "*i32"),
            Argument("tile_ends", "*i32"),
            Argument("y", "*{act}"),
            Argument("block_table_stride", "i32"),
        ),
        grid=((Extent("tiles"),), (Extent("num_kv_heads"),)),
        tune=tune_prefill,
        variants=_variants(decode=False),
    ),
)
