"""Rotary position embedding (Su et al., 2021) of queries and keys, and the write of keys and values to the cache."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.paged_cache import inverse_scale, rounded
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant
from inflight.build.gpu_kernels.variants import rope_variants


@triton.jit
def rope_cache_write(
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    positions,
    sequence_of_row,
    block_tables,
    q_factors,
    q,
    key_cache,
    value_cache,
    key_scales,
    value_scales,
    block_table_stride,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_size: tl.constexpr,
    tokens_per_block: tl.constexpr,
    rotary_size: tl.constexpr,
    normalizes: tl.constexpr,
    norm_last: tl.constexpr,
    epsilon: tl.constexpr,
    has_factors: tl.constexpr,
    cache_format: tl.constexpr,
    padded_group: tl.constexpr,
    padded_head: tl.constexpr,
):
    """One program per row and KV head: the query heads that share it, its key and its value.

    qkv [rows, (num_heads + 2 num_kv_heads) * head_size]: float32, bfloat16 or float16. q_norm, k_norm [head_size] are
    read when `normalizes` (Qwen3: each head has its RMSNorm; with `norm_last` behind the rotation). cos, sin float32
    [max_seq_len, rotary_size / 2], not read where rotary_size is 0; of the first rotary_size elements of a head,
    element i pairs with i + rotary_size / 2, and the others stay as they are. q [rows, num_heads * head_size] is
    written, times q_factors float32 [max_seq_len] of the row's position if has_factors; caches and scales:
    `paged_cache`, those of INT8 are written, those of FLOAT8 read. A row of negative position is not there.
    """
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    position = tl.load(positions + row)
    if position >= 0:
        group: tl.constexpr = num_heads // num_kv_heads
        columns = tl.arange(0, padded_head)
        inside = columns < head_size
        turn = turn_of(cos, sin, position, rotary_size, padded_head)
        row_start = qkv + row * (num_heads + 2 * num_kv_heads) * head_size
        member = tl.arange(0, padded_group)
        heads = kv_head * group + member
        there = (member < group)[:, None] & inside[None, :]
        rule: tl.constexpr = (head_size, rotary_size, normalizes, norm_last, epsilon, padded_head)
        query = _rotated(row_start + heads * head_size, q_norm, there, turn, rule)
        if has_factors:
            query = query * tl.load(q_factors + position)
        q_at = q + (row * num_heads + heads)[:, None] * head_size + columns[None, :]
        tl.store(q_at, query.to(q.dtype.element_ty), mask=there)

        block_table = block_tables + tl.load(sequence_of_row + row).to(tl.int64) * block_table_stride
        block = tl.load(block_table + position // tokens_per_block).to(tl.int64)
        slot = (block * num_kv_heads + kv_head) * tokens_per_block + position % tokens_per_block
        key_head = row_start + (num_heads + kv_head + tl.arange(0, 1)) * head_size
        key = _rotated(key_head, k_norm, inside[None, :], turn, rule)
        inverse = inverse_scale(key_scales, slot, tl.max(tl.abs(key)), cache_format)
        key_at = key_cache + slot * head_size + columns[None, :]
        tl.store(key_at, rounded(key, inverse, key_cache, cache_format), mask=inside[None, :])

        value_head = row_start + (num_heads + num_kv_heads + kv_head) * head_size
        value = tl.load(value_head + columns, mask=inside, other=0.0).to(tl.float32)
        inverse = inverse_scale(value_scales, slot, tl.max(tl.abs(value)), cache_format)
        value_at = value_cache + slot * head_size + columns
        tl.store(value_at, rounded(value, inverse, value_cache, cache_format), mask=inside)


@triton.jit
def turn_of(cos, sin, position, rotary_size: tl.constexpr, padded_head: tl.constexpr):
    """Of each element of a head, [padded_head]: the factor of itself, that of its partner, and how far away that is."""
    half: tl.constexpr = rotary_size // 2
    columns = tl.arange(0, padded_head)
    low = columns < half
    turned = columns < rotary_size
    at = position.to(tl.int64) * half + tl.where(low, columns, columns - half)
    cosine = tl.load(cos + at, mask=turned, other=1.0)
    sine = tl.load(sin + at, mask=turned, other=0.0)
    away = tl.where(low, half, tl.where(turned, -half, 0))
    return cosine, tl.where(low, -sine, sine), away


@triton.jit
def _rotated(heads, norm, mask, turn, rule: tl.constexpr):
    """float32 [M, padded_head] of the heads at the pointers `heads` [M]; zeros where `mask` is false."""
    cosine, sine, away = turn
    head_size: tl.constexpr = rule[0]
    rotary_size: tl.constexpr = rule[1]
    normalizes: tl.constexpr = rule[2]
    norm_last: tl.constexpr = rule[3]
    columns = tl.arange(0, rule[5])
    inside = columns < head_size
    value = tl.load(heads[:, None] + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    squares = tl.sum(value * value, axis=1)
    inverse = tl.div_rn(1.0, tl.sqrt_rn(tl.div_rn(squares, head_size * 1.0) + rule[4]))[:, None]
    if normalizes and not norm_last:
        value = value * inverse * tl.load(norm + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if rotary_size > 0:
        partner = tl.load(heads[:, None] + (columns + away)[None, :], mask=mask, other=0.0).to(tl.float32)
        if normalizes and not norm_last:
            gain = tl.load(norm + columns + away, mask=inside, other=0.0).to(tl.float32)
            partner = partner * inverse * gain[None, :]
        value = value * cosine[None, :] + partner * sine[None, :]
    if normalizes and norm_last:
        # A rotation leaves the sum of squares as it was.
        value = value * inverse * tl.load(norm + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    return value


def tune(sm: int, variant: Variant) -> Tuning:
    """A program has few thousand elements: two warps, and as many programs as the rows and heads make."""
    head_size = int(variant.constants["head_size"])
    group = int(variant.constants["num_heads"]) // int(variant.constants["num_kv_heads"])
    return Tuning(
        num_warps=2,
        constants={
            "padded_group": triton.next_power_of_2(group),
            "padded_head": triton.next_power_of_2(head_size),
        },
    )


SPECS = (
    KernelSpec(
        module=__name__,
        function="rope_cache_write",
        arguments=(
            Argument("qkv", "*{qkv}"),
            Argument("q_norm", "*{norm}"),
            Argument("k_norm", "*{norm}"),
            Argument("cos", "*fp32"),
            Argument("sin", "*fp32"),
            Argument("positions", "*i32"),
            Argument("sequence_of_row", "*i32"),
            Argument("block_tables", "*i32"),
            Argument("q_factors", "*fp32"),
            Argument("q", "*{act}"),
            Argument("key_cache", "*{kv}"),
            Argument("value_cache", "*{kv}"),
            Argument("key_scales", "*fp32"),
            Argument("value_scales", "*fp32"),
            Argument("block_table_stride", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("num_kv_heads"),)),
        tune=tune,
        variants=rope_variants(),
        decode_path=True,
    ),
)
