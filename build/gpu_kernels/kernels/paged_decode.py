"""Attention of single tokens over the paged cache, split over the context (Dao et al., Flash-Decoding, 2023).

Splits are cut at multiples of `split_tokens` from position 0, and combined from first to last, so a row's result
depends on its own context alone.
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
from inflight.build.gpu_kernels.variants import (
    attention_variant,
    attention_variants,
    combine_variant,
    padded_head_of,
)


@triton.jit
def paged_decode(
    q,
    key_cache,
    value_cache,
    key_scales,
    value_scales,
    positions,
    sequence_of_row,
    block_tables,
    bias,
    partials,
    maxima,
    totals,
    block_table_stride,
    splits,
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
    split_tokens: tl.constexpr,
    cache_format: tl.constexpr,
    native_float8: tl.constexpr,
    padded_head: tl.constexpr,
    padded_group: tl.constexpr,
    block_n: tl.constexpr,
):
    """One program per row, KV head and split: the softmax over the split's part of the row's context, not yet divided.

    q [rows, num_heads * head_size] bfloat16 or float16; caches and scales: `paged_cache`; positions, sequence_of_row
    int32 [rows], a negative position for a row that is not there; block_tables int32 [sequences, block_table_stride].
    Row t sees tokens 0 .. positions[t] of its sequence, or the last of them (`first_seen`). bias float32 [num_heads,
    bias_width] is added to scores if has_bias (`bias_of_rows`). Written, float32: partials [rows, num_heads, splits,
    head_size], maxima (in powers of two) and totals [rows, num_heads, splits],
    where the split has a token that the row sees. `splits` * split_tokens is more than the greatest position.
    """
    tl.static_assert(split_tokens % block_n == 0, "a split begins with a tile of its own")
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    group: tl.constexpr = num_heads // num_kv_heads
    position = tl.load(positions + row)
    first = first_seen(position, window, chunk)
    begin = split * split_tokens
    end = tl.minimum(begin + split_tokens, position + 1)
    if end > tl.maximum(begin, first):
        member = tl.arange(0, padded_group)
        columns = tl.arange(0, padded_head)
        block_table = block_tables + tl.load(sequence_of_row + row).to(tl.int64) * block_table_stride
        cache = (key_cache, value_cache, key_scales, value_scales, block_table)
        layout: tl.constexpr = (num_kv_heads, tokens_per_block, head_size, padded_head, cache_format, native_float8)
        rule: tl.constexpr = (scale, soft_cap, window, chunk, has_bias)
        table: tl.constexpr = (bias_width, bias_origin)
        span = (begin, end, first, position)
        sizes: tl.constexpr = (group, padded_group, block_n)
        state = attended_split(q, cache, bias, row, kv_head, span, sizes, layout, rule, table)
        maximum, total, output = state
        heads = row * num_heads + kv_head * group + member
        inside = (member < group)[:, None] & (columns < head_size)[None, :]
        at = heads * splits + split
        tl.store(maxima + at, maximum, mask=member < group)
        tl.store(totals + at, total, mask=member < group)
        tl.store(partials + at[:, None] * head_size + columns[None, :], output, mask=inside)


@triton.jit
def attended_split(
    q,
    cache,
    bias,
    row,
    kv_head,
    span,
    sizes: tl.constexpr,
    layout: tl.constexpr,
    rule: tl.constexpr,
    table: tl.constexpr,
):
    """The state (maximum [M] in powers of two, total [M], output [M, padded_head], float32) of the query heads of a KV
    head after a part of their row's context, of which some there is.

    span = (begin, end of the part, the first token that the row sees, its position); sizes = (heads of a group, M,
    tokens of a tile); table = (bias_width, bias_origin); cache, layout and rule: `attend`.
    """
    begin, end, first, position = span
    group: tl.constexpr = sizes[0]
    padded_group: tl.constexpr = sizes[1]
    block_n: tl.constexpr = sizes[2]
    num_heads: tl.constexpr = layout[0] * sizes[0]
    head_size: tl.constexpr = layout[2]
    padded_head: tl.constexpr = layout[3]
    has_bias: tl.constexpr = rule[4]
    member = tl.arange(0, padded_group)
    columns = tl.arange(0, padded_head)
    inside = (member < group)[:, None] & (columns < head_size)[None, :]
    heads = row.to(tl.int64) * num_heads + kv_head * group + member
    query = tl.load(q + heads[:, None] * head_size + columns[None, :], mask=inside, other=0.0)
    row_positions = tl.full([padded_group], 0, tl.int32) + position
    state = (
        tl.full([padded_group], float("-inf"), tl.float32),
        tl.zeros([padded_group], tl.float32),
        tl.zeros([padded_group, padded_head], tl.float32),
    )
    bias_rows = bias
    if has_bias:
        # Members of a padded group have no row of their own.
        biased = kv_head * group + tl.minimum(member, group - 1)
        bias_rows = bias_of_rows(bias, biased, row_positions, table[0], table[1])
    rows = (first, position, row_positions, bias_rows)
    for start in range(tl.maximum(begin, first // block_n * block_n), end, block_n):
        state = attend(query, cache, state, start, rows, kv_head, layout, rule, block_n, True)
    maximum, total, output = state
    return maximum, total, scaled(output, cache[3], layout[4])


@triton.jit
def combine_splits(
    partials,
    maxima,
    totals,
    positions,
    sinks,
    y,
    splits,
    num_heads: tl.constexpr,
    head_size: tl.constexpr,
    window: tl.constexpr,
    chunk: tl.constexpr,
    has_sinks: tl.constexpr,
    split_tokens: tl.constexpr,
    padded_head: tl.constexpr,
    splits_at_once: tl.constexpr,
):
    """One program per row and head: y [rows, num_heads * head_size] bfloat16 or float16 out of `paged_decode`'s parts.

    Splits are taken `splits_at_once` at a time, counted from the first of the sequence. sinks float32 [num_heads] are
    one score more of each row, if has_sinks. A row that is not there becomes zeros.
    """
    row = tl.program_id(0).to(tl.int64)
    head = row * num_heads + tl.program_id(1)
    position = tl.load(positions + row)
    first = first_seen(position, window, chunk) // split_tokens
    columns = tl.arange(0, padded_head)
    maximum = float("-inf")
    total = 0.0
    output = tl.zeros([padded_head], tl.float32)
    # -1 // split_tokens is 0 in this language.
    end = (position + split_tokens) // split_tokens
    for start in range(first // splits_at_once * splits_at_once, end, splits_at_once):
        split = start + tl.arange(0, splits_at_once)
        there = (split >= first) & (split < end)
        at = head * splits + split
        greatest_of = tl.load(maxima + at, mask=there, other=float("-inf"))
        greatest = tl.maximum(maximum, tl.max(greatest_of, axis=0))
        weights = tl.exp2(greatest_of - greatest)
        inside = there[:, None] & (columns < head_size)[None, :]
        parts = tl.load(partials + at[:, None] * head_size + columns[None, :], mask=inside, other=0.0)
        decay = tl.exp2(maximum - greatest)
        total = total * decay + tl.sum(weights * tl.load(totals + at, mask=there, other=0.0), axis=0)
        output = output * decay + tl.sum(weights[:, None] * parts, axis=0)
        maximum = greatest
    if has_sinks:
        decay, total = with_sink(maximum, total, tl.load(sinks + tl.program_id(1)))
        output = output * decay
    result = output / tl.where(total == 0.0, 1.0, total)
    tl.store(y + head * head_size + columns, result.to(y.dtype.element_ty), mask=columns < head_size)


def tune_decode(sm: int, variant: Variant) -> Tuning:
    """Two programs or more fit into the shared memory of every generation, 32 KiB on the way to each."""
    constants = variant.constants
    padded_head = padded_head_of(variant)
    group = int(constants["num_heads"]) // int(constants["num_kv_heads"])
    wide, single = padded_head > 128, variant.types["act"] == "fp32"
    return Tuning(
        num_warps=8 if wide else 4,
        num_stages=1 if single else 3,
        # By default ptxas aims at 128 registers for 8 warps, and spills to reach that.
        max_registers=168 if wide else None,
        constants={
            "native_float8": sm >= 89,
            "padded_head": padded_head,
            "padded_group": max(16, triton.next_power_of_2(group)),
            "block_n": 16 if single else 32 if wide else 64,
        },
    )


def tune_combine(sm: int, variant: Variant) -> Tuning:
    padded_head = padded_head_of(variant)
    return Tuning(num_warps=4, num_stages=2, constants={"padded_head": padded_head, "splits_at_once": 16})


def _combine_variants() -> tuple[Variant, ...]:
    """One per set of constants that matters here."""
    found: dict[str, Variant] = {}
    for variant in attention_variants(decode=True):
        kept = combine_variant(variant)
        found.setdefault(repr(kept), kept)
    with_sinks = combine_variant(attention_variant(64, 8, 64, window=128, split_tokens=256), has_sinks=True)
    found.setdefault(repr(with_sinks), with_sinks)
    latent = combine_variant(attention_variant(128, 1, 512, split_tokens=256))
    found.setdefault(repr(latent), latent)
    return tuple(found.values())


SPECS = (
    KernelSpec(
        module=__name__,
        function="paged_decode",
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
            Argument("partials", "*fp32"),
            Argument("maxima", "*fp32"),
            Argument("totals", "*fp32"),
            Argument("block_table_stride", "i32"),
            Argument("splits", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("num_kv_heads"),), (Extent("splits"),)),
        tune=tune_decode,
        variants=attention_variants(decode=True),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="combine_splits",
        arguments=(
            Argument("partials", "*fp32"),
            Argument("maxima", "*fp32"),
            Argument("totals", "*fp32"),
            Argument("positions", "*i32"),
            Argument("sinks", "*fp32"),
            Argument("y", "*{act}"),
            Argument("splits", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("num_heads"),)),
        tune=tune_combine,
        variants=_combine_variants(),
        decode_path=True,
    ),
)
