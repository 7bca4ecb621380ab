"""Rotary position embedding (Su et al., 2021) of queries and keys, and the write of keys and values to the cache."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.paged_cache import FLOAT8, INT8
from inflight.build.gpu_kernels.kernels.rounding import quantize, row_scale
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
    normalizes: tl.constexpr,
    epsilon: tl.constexpr,
    cache_format: tl.constexpr,
    padded_group: tl.constexpr,
    padded_half: tl.constexpr,
    padded_head: tl.constexpr,
):
    """One program per row and KV head: the query heads that share it, its key and its value.

    qkv [rows, (num_heads + 2 num_kv_heads) * head_size]: float32, bfloat16 or float16. q_norm, k_norm [head_size] are
    read when `normalizes` (Qwen3: each head has its RMSNorm). cos, sin float32 [max_seq_len, head_size / 2]; element i
    of a head pairs with i + head_size / 2. q [rows, num_heads * head_size] is written; caches and scales:
    `paged_cache`, those of INT8 are written, those of FLOAT8 read. A row of negative position is not there.
    """
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    position = tl.load(positions + row)
    if position >= 0:
        half: tl.constexpr = head_size // 2
        group: tl.constexpr = num_heads // num_kv_heads
        columns = tl.arange(0, padded_half)
        inside = columns < half
        cosine = tl.load(cos + position.to(tl.int64) * half + columns, mask=inside, other=0.0)
        sine = tl.load(sin + position.to(tl.int64) * half + columns, mask=inside, other=0.0)
        row_start = qkv + row * (num_heads + 2 * num_kv_heads) * head_size
        member = tl.arange(0, padded_group)
        heads = kv_head * group + member
        there = (member < group)[:, None] & inside[None, :]
        low, high = _rotated(
            row_start + heads * head_size, q_norm, there, cosine, sine, head_size, normalizes, epsilon, padded_half
        )
        q_at = q + (row * num_heads + heads)[:, None] * head_size + columns[None, :]
        tl.store(q_at, low.to(q.dtype.element_ty), mask=there)
        tl.store(q_at + half, high.to(q.dtype.element_ty), mask=there)

        block_table = block_tables + tl.load(sequence_of_row + row).to(tl.int64) * block_table_stride
        block = tl.load(block_table + position // tokens_per_block).to(tl.int64)
        slot = (block * num_kv_heads + kv_head) * tokens_per_block + position % tokens_per_block
        one = tl.arange(0, 1)
        key_head = row_start + (num_heads + kv_head + one) * head_size
        low, high = _rotated(
            key_head, k_norm, inside[None, :], cosine, sine, head_size, normalizes, epsilon, padded_half
        )
        greatest = tl.maximum(tl.max(tl.abs(low)), tl.max(tl.abs(high)))
        inverse = _inverse_scale(key_scales, slot, greatest, cache_format)
        key_at = key_cache + slot * head_size + columns[None, :]
        tl.store(key_at, _rounded(low, inverse, key_cache, cache_format), mask=inside[None, :])
        tl.store(key_at + half, _rounded(high, inverse, key_cache, cache_format), mask=inside[None, :])

        whole = tl.arange(0, padded_head)
        value_head = row_start + (num_heads + num_kv_heads + kv_head) * head_size
        value = tl.load(value_head + whole, mask=whole < head_size, other=0.0).to(tl.float32)
        inverse = _inverse_scale(value_scales, slot, tl.max(tl.abs(value)), cache_format)
        value_at = value_cache + slot * head_size + whole
        tl.store(value_at, _rounded(value, inverse, value_cache, cache_format), mask=whole < head_size)


@triton.jit
def _rotated(
    heads,
    norm,
    mask,
    cosine,
    sine,
    head_size: tl.constexpr,
    normalizes: tl.constexpr,
    epsilon: tl.constexpr,
    padded_half: tl.constexpr,
):
    """Both halves, float32 [M, padded_half], of the heads at the pointers `heads` [M]."""
    half: tl.constexpr = head_size // 2
    columns = tl.arange(0, padded_half)
    at = heads[:, None] + columns[None, :]
    low = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(at + half, mask=mask, other=0.0).to(tl.float32)
    if normalizes:
        squares = tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)
        inverse = tl.div_rn(1.0, tl.sqrt_rn(tl.div_rn(squares, head_size * 1.0) + epsilon))[:, None]
        inside = columns < half
        low = low * inverse * tl.load(norm + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        high = high * inverse * tl.load(norm + half + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    return low * cosine[None, :] - high * sine[None, :], high * cosine[None, :] + low * sine[None, :]


@triton.jit
def _inverse_scale(scales, slot, greatest, cache_format: tl.constexpr):
    """What a key or value is multiplied with before it is rounded; the scale of an INT8 row is written on the way."""
    if cache_format == INT8:
        scale, inverse = row_scale(greatest, False)
        tl.store(scales + slot, scale)
        return inverse
    if cache_format == FLOAT8:
        return tl.div_rn(1.0, tl.load(scales))
    return 1.0


@triton.jit
def _rounded(x, inverse, cache, cache_format: tl.constexpr):
    if cache_format == INT8 or cache_format == FLOAT8:  # noqa: SIM109
        x = quantize(x, inverse, cache_format == FLOAT8)
    return x.to(cache.dtype.element_ty)


def tune(sm: int, variant: Variant) -> Tuning:
    """A program has few thousand elements: two warps, and as many programs as the rows and heads make."""
    head_size = int(variant.constants["head_size"])
    group = int(variant.constants["num_heads"]) // int(variant.constants["num_kv_heads"])
    return Tuning(
        num_warps=2,
        constants={
            "padded_group": triton.next_power_of_2(group),
            "padded_half": triton.next_power_of_2(head_size // 2),
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
