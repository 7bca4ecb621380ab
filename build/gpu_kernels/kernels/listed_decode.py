"""Attention of generated tokens over the paged cache, by the list of their splits (`split_parts`)."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.online_softmax import first_seen
from inflight.build.gpu_kernels.kernels.paged_decode import attended_split, tune_decode
from inflight.build.gpu_kernels.kernels.quantize_rows import ROUNDING, quantize_variant, rounded, sources
from inflight.build.gpu_kernels.kernels.split_parts import (
    GROUP_SPLITS,
    LISTED,
    PARTS,
    last_to_arrive,
    parts_at_once,
    row_of_item,
    settled,
    write_heads,
    write_part,
)
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant
from inflight.build.gpu_kernels.variants import (
    attention_variant,
    attention_variants,
    listed_variant,
    padded_head_of,
)


@triton.jit
def listed_decode(
    q,
    key_cache,
    value_cache,
    key_scales,
    value_scales,
    positions,
    sequence_of_row,
    block_tables,
    first_items,
    bias,
    sinks,
    order,
    factors,
    stored,
    low,
    high,
    levels,
    level_scales,
    heads_arrived,
    partials,
    maxima,
    totals,
    arrived,
    y,
    block_table_stride,
    rows,
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
    quantizes: tl.constexpr,
    orders: tl.constexpr,
    multiplies: tl.constexpr,
    float8: tl.constexpr,
    has_stored: tl.constexpr,
    cuts: tl.constexpr,
    split_tokens: tl.constexpr,
    most_rows: tl.constexpr,
    cache_format: tl.constexpr,
    native_float8: tl.constexpr,
    padded_head: tl.constexpr,
    padded_group: tl.constexpr,
    block_n: tl.constexpr,
    group_heads: tl.constexpr,
    at_once: tl.constexpr,
    group_splits: tl.constexpr,
    block: tl.constexpr,
):
    """Program (item, KV head): a split of a row's context, and y [rows, num_heads * head_size] of `act` where it is the
    last of the row's to arrive.

    q, caches, scales, positions, sequence_of_row, block_tables and bias: `paged_decode`; no position is negative.
    first_items: `row_of_item`, of rows that have position // split_tokens + 1 items each; sinks: `write_heads`;
    partials, maxima, totals: `write_part`. arrived int32 [items, num_kv_heads, 2] (`settled`) is zero before and after
    every launch. group_heads: the next power of two of the heads of a group.

    When `quantizes`, the program that ends a row rounds it, too: levels int8 [rows, num_heads * head_size] and
    level_scales float32 [rows] are what `quantize_rows` makes of y with order, factors, stored, low and high.
    heads_arrived int32 [rows] is as `arrived`, `block` a power of two of at least a row's width.
    """
    tl.static_assert(split_tokens % block_n == 0, "a split begins with a tile of its own")
    item, kv_head = tl.program_id(0), tl.program_id(1)
    row, first_item = row_of_item(item, first_items, rows, most_rows)
    position = tl.load(positions + row)
    first = first_seen(position, window, chunk)
    begin = (item - first_item) * split_tokens
    end = tl.minimum(begin + split_tokens, position + 1)
    if end > tl.maximum(begin, first):
        group: tl.constexpr = num_heads // num_kv_heads
        cache = (
            key_cache,
            value_cache,
            key_scales,
            value_scales,
            block_tables + tl.load(sequence_of_row + row).to(tl.int64) * block_table_stride,
        )
        layout: tl.constexpr = (num_kv_heads, tokens_per_block, head_size, padded_head, cache_format, native_float8)
        rule: tl.constexpr = (scale, soft_cap, window, chunk, has_bias)
        table: tl.constexpr = (bias_width, bias_origin)
        span = (begin, end, first, position)
        sizes: tl.constexpr = (group, padded_group, block_n)
        state = attended_split(q, cache, bias, row, kv_head, span, sizes, layout, rule, table)
        member = tl.arange(0, padded_group)
        head = kv_head * group + member
        last, least = position // split_tokens, first // split_tokens
        finished = True
        if last == least:
            write_heads(y, sinks, state, row, head, member < group, num_heads, head_size, padded_head, has_sinks)
        else:
            parts = (partials, maxima, totals)
            write_part(parts, state, item, head, member < group, num_heads, head_size, padded_head)
            few = tl.arange(0, group_heads)
            own = kv_head * group + few
            there = few < group
            place = (first_item, num_kv_heads, kv_head)
            splits = (item - first_item, least, last)
            heads: tl.constexpr = (num_heads, head_size, padded_head)
            finished, maximum, total, output = settled(
                parts, arrived, place, splits, own, there, heads, at_once, group_splits
            )
            if finished:
                whole = (maximum, total, output)
                write_heads(y, sinks, whole, row, own, there, num_heads, head_size, padded_head, has_sinks)
        if quantizes:  # noqa: SIM102  (one is known when it is compiled)
            if finished:  # noqa: SIM102  (who has not finished may not arrive)
                if last_to_arrive(heads_arrived + row, num_kv_heads):
                    width: tl.constexpr = num_heads * head_size
                    kinds: tl.constexpr = (orders, multiplies, True, float8, has_stored, cuts)
                    given = (order, factors, stored, low, high)
                    at = row.to(tl.int64)
                    places = y + at * width + sources(order, orders, width, block)
                    # Other programs have written it meanwhile.
                    value = tl.load(places, mask=tl.arange(0, block) < width, other=0.0, cache_modifier=".cg")
                    rounded(value, given, levels + at * width, level_scales + at, kinds, width, block)


def tune(sm: int, variant: Variant) -> Tuning:
    """That of `paged_decode`."""
    tuning, constants = tune_decode(sm, variant), variant.constants
    heads = triton.next_power_of_2(int(constants["num_heads"]) // int(constants["num_kv_heads"]))
    width = int(constants["num_heads"]) * int(constants["head_size"])
    own: dict[str, Constant] = {
        "block": triton.next_power_of_2(width),
        "group_heads": heads,
        "at_once": parts_at_once(heads, padded_head_of(variant)),
    }
    own["group_splits"] = GROUP_SPLITS
    return replace(tuning, constants={**tuning.constants, **own})


SPECS = (
    KernelSpec(
        module=__name__,
        function="listed_decode",
        arguments=(
            Argument("q", "*{act}"),
            Argument("key_cache", "*{kv}"),
            Argument("value_cache", "*{kv}"),
            Argument("key_scales", "*fp32"),
            Argument("value_scales", "*fp32"),
            *(Argument(name, "*i32") for name in ("positions", "sequence_of_row", "block_tables")),
            *LISTED,
            Argument("bias", "*fp32"),
            Argument("sinks", "*fp32"),
            *ROUNDING,
            Argument("levels", "*i8"),
            Argument("level_scales", "*fp32"),
            Argument("heads_arrived", "*i32"),
            *PARTS,
        ),
        grid=((Extent("items"),), (Extent("num_kv_heads"),)),
        tune=tune,
        variants=(
            *(listed_variant(variant) for variant in attention_variants(decode=True)),
            listed_variant(attention_variant(64, 8, 64, window=128, split_tokens=256), has_sinks=True),
            *(
                listed_variant(attention_variant(32, 8, 128, kv="float8", split_tokens=256), levels=levels)
                for levels in (
                    quantize_variant(4096, "int8"),
                    quantize_variant(4096, "float8"),
                    quantize_variant(4096, "float8", has_stored=True, orders=True, factors="bf16"),
                )
            ),
            listed_variant(attention_variant(64, 8, 128, split_tokens=256), levels=quantize_variant(8192, "int8")),
        ),
        decode_path=True,
    ),
)
