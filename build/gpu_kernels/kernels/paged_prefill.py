"""Attention of prompt chunks over the paged cache, ragged and causal (Dao, FlashAttention-2, 2023).

The query heads that share a KV head are rows of one tile, so short chunks fill tiles, too. A row walks its context in
tiles of `block_n` tokens counted from position 0: neither the chunk nor the tile it is in decides a bit of its result.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.online_softmax import (
    attend,
    bias_of_rows,
    first_seen,
    scaled,
    with_sink,
)
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant
from inflight.build.gpu_kernels.variants import attention_variants, padded_head_of


@triton.jit
def paged_prefill(
    q,
    key_cache,
    value_cache,
    key_scales,
    value_scales,
    positions,
    sequence_of_row,
    block_tables,
    bias,
    sinks,
    tile_begins,
    tile_ends,
    y,
    block_table_stride,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_size: tl.constexpr,
    tokens_per_block: tl.constexpr,
    scale: tl.constexpr,
    soft_cap: tl.constexpr,
    window: tl.constexpr,
    chunk: tl.constexpr,
    has_bias: tl.constexpr,
    bias_width: tl.constexpr,
    bias_origin: tl.constexpr,
    has_sinks: tl.constexpr,
    cache_format: tl.constexpr,
    native_float8: tl.constexpr,
    padded_head: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
):
    """One program per tile and KV head: y [rows, num_heads * head_size] for the tile's rows.

    tile_begins, tile_ends int32 [tiles]: rows begin .. end of one chunk, at consecutive positions, at most
    block_m / (num_heads / num_kv_heads) of them; an empty tile does nothing. sinks are those of
    `combine_splits`, the other arguments `paged_decode`'s.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    begin = tl.load(tile_begins + tile)
    end = tl.load(tile_ends + tile)
    if begin < end:
        group: tl.constexpr = num_heads // num_kv_heads
        packed = tl.arange(0, block_m)
        columns = tl.arange(0, padded_head)
        heads = (begin + packed // group).to(tl.int64) * num_heads + kv_head * group + packed % group
        inside = (packed // group < end - begin)[:, None] & (columns < head_size)[None, :]
        query = tl.load(q + heads[:, None] * head_size + columns[None, :], mask=inside, other=0.0)
        sequence = tl.load(sequence_of_row + begin).to(tl.int64)
        block_table = block_tables + sequence * block_table_stride
        least = tl.load(positions + begin)
        last = least + end - begin - 1
        row_positions = tl.minimum(least + packed // group, last)
        state = (
            tl.full([block_m], float("-inf"), tl.float32),
            tl.zeros([block_m], tl.float32),
            tl.zeros([block_m, padded_head], tl.float32),
        )
        cache = (key_cache, value_cache, key_scales, value_scales, block_table)
        layout: tl.constexpr = (num_kv_heads, tokens_per_block, head_size, padded_head, cache_format, native_float8)
        rule: tl.constexpr = (scale, soft_cap, window, chunk, has_bias)
        bias_rows = bias
        if has_bias:
            of_group = kv_head * group + packed % group
            bias_rows = bias_of_rows(bias, of_group, row_positions, bias_width, bias_origin)
        # Every row sees all of the tiles from `whole_begin` to `whole_end`, and some rows a part of those around.
        first = first_seen(least, window, chunk)
        rows = (first, last, row_positions, bias_rows)
        whole_begin = 0
        whole_end = (least + 1) // block_n * block_n
        if window > 0 or chunk > 0:
            whole_begin = tl.minimum(tl.cdiv(first_seen(last, window, chunk), block_n) * block_n, whole_end)
            for start in range(first // block_n * block_n, whole_begin, block_n):
                state = attend(query, cache, state, start, rows, kv_head, layout, rule, block_n, True)
        for start in range(whole_begin, whole_end, block_n):
            state = attend(query, cache, state, start, rows, kv_head, layout, rule, block_n, False)
        for start in range(whole_end, last + 1, block_n):
            state = attend(query, cache, state, start, rows, kv_head, layout, rule, block_n, True)
        maximum, total, output = state
        output = scaled(output, value_scales, cache_format)
        if has_sinks:
            decay, total = with_sink(maximum, total, tl.load(sinks + kv_head * group + packed % group))
            output = output * decay[:, None]
        result = output / total[:, None]
        tl.store(y + heads[:, None] * head_size + columns[None, :], result.to(y.dtype.element_ty), mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    """Tiles as large as registers and shared memory allow; generations 90 and 100 multiply out of shared memory.
    float32, which no tensor core takes as it is, has small ones. Where registers spill, as many keys fewer at a time as
    that takes: first fewer are on their way, then steps have half or a quarter of them."""
    padded_head = padded_head_of(variant)
    large = sm in (90, 100)
    if variant.types["act"] == "fp32":
        block_m, block_n, num_warps, num_stages = 16, 16 if padded_head > 128 else 32, 4, 1
    elif padded_head > 128:
        block_m, block_n, num_warps, num_stages = (128, 32, 8, 2) if large else (64, 32, 8, 2)
    elif large:
        block_m, block_n, num_warps, num_stages = 128, 128, 8, 3 if sm == 90 else 2
    elif padded_head == 128:
        block_m, block_n, num_warps, num_stages = (64, 64, 4, 3) if sm == 80 else (128, 64, 8, 2)
    else:
        block_m, block_n, num_warps, num_stages = 128, 64, 8, 3
    if variant.constants["has_bias"]:
        # A tile of the bias is in registers, too.
        block_n = max(16, block_n // 2)
    # A tile has all query heads of a KV head for one token at least.
    group = int(variant.constants["num_heads"]) // int(variant.constants["num_kv_heads"])
    block_m = max(block_m, triton.next_power_of_2(group))
    constants = {"native_float8": sm >= 89, "padded_head": padded_head, "block_m": block_m}
    fewer = ((num_stages, max(16, block_n // part)) for part in (2, 4))
    tuning: Tuning | None = None
    for stages, keys in reversed(dict.fromkeys(((num_stages, block_n), (min(2, num_stages), block_n), *fewer))):
        tuning = Tuning(num_warps, stages, {**constants, "block_n": keys}, instead=tuning)
    assert tuning is not None, "the first is always there"
    return tuning


SPECS = (
    KernelSpec(
        module=__name__,
        function="paged_prefill",
        arguments=(
            Argument("q", "*{act}"),
            Argument("key_cache", "*{kv}"),
            Argument("value_cache", "*{kv}"),
            Argument("key_scales", "*fp32"),
            Argument("value_scales", "*fp32"),
            Argument("positions", "*i32"),
            Argument("sequence_of_row", "*i32"),
            Argument("block_tables", "*i32"),
            Argument("bias", "*fp32"),
            Argument("sinks", "*fp32"),
            Argument("tile_begins", "*i32"),
            Argument("tile_ends", "*i32"),
            Argument("y", "*{act}"),
            Argument("block_table_stride", "i32"),
        ),
        grid=((Extent("tiles"),), (Extent("num_kv_heads"),)),
        tune=tune,
        variants=attention_variants(decode=False),
    ),
)
