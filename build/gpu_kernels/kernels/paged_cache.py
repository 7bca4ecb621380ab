"""Where tokens lie in the paged KV cache, how its rows become operands of a product, and how they are rounded.

Keys and values are [blocks, num_kv_heads, tokens_per_block, head_size], each. Formats: PLAIN (bfloat16, float16 or
float32), FLOAT8 (the bits of E4M3 in int8, with one scale for all keys and one for all values, float32 [1]) and INT8
(with one scale per token and head, float32 [blocks, num_kv_heads, tokens_per_block]). Both integers and E4M3 are exact
in bfloat16 and float16, so scales stay outside of the products.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.rounding import from_float8, quantize, row_scale

PLAIN = tl.constexpr(0)
FLOAT8 = tl.constexpr(1)
INT8 = tl.constexpr(2)


@triton.jit
def cache_rows(
    block_table,
    start,
    last,
    kv_head,
    num_kv_heads: tl.constexpr,
    tokens_per_block: tl.constexpr,
    block_n: tl.constexpr,
):
    """int64 [block_n]: the rows of tokens start, start + 1, ... of one head, counted in head_size elements.

    `start` is a multiple of block_n. The block table is read up to token `last`; rows behind it mean nothing.
    """
    if tokens_per_block % block_n == 0:
        block = tl.load(block_table + start // tokens_per_block).to(tl.int64)
        return (block * num_kv_heads + kv_head) * tokens_per_block + start % tokens_per_block + tl.arange(0, block_n)
    tokens = start + tl.arange(0, block_n)
    blocks = tl.load(block_table + tokens // tokens_per_block, mask=tokens <= last, other=0).to(tl.int64)
    return (blocks * num_kv_heads + kv_head) * tokens_per_block + tokens % tokens_per_block


@triton.jit
def load_rows(cache, rows, written, head_size: tl.constexpr, padded_head: tl.constexpr, masked: tl.constexpr):
    """[block_n, padded_head] of the cache's type: zeros behind head_size and, when `masked`, where `written` is false.

    Memory that no token was written to may hold NaN, which a weight of 0 would not silence.
    """
    columns = tl.arange(0, padded_head)
    at = cache + rows[:, None] * head_size + columns[None, :]
    if padded_head != head_size:
        inside = (columns < head_size)[None, :]
        if masked:
            inside = inside & written[:, None]
        tile = tl.load(at, mask=inside, other=0)
    elif masked:
        tile = tl.load(at, mask=written[:, None], other=0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def operand(tile, dtype: tl.constexpr, cache_format: tl.constexpr, native_float8: tl.constexpr):
    """A tile of the cache as products read it, without its scales."""
    if cache_format == FLOAT8 and native_float8:
        value = tile.to(tl.float8e4nv, bitcast=True).to(dtype)
    elif cache_format == FLOAT8:
        value = from_float8(tile, tl.bfloat16 if dtype == tl.bfloat16 else tl.float16).to(dtype)
    elif cache_format == INT8:
        value = tile.to(tl.float32).to(dtype)
    else:
        value = tile.to(dtype)
    return value


@triton.jit
def inverse_scale(scales, slot, greatest, cache_format: tl.constexpr):
    """What a key or value is multiplied with before it is rounded; the scale of an INT8 row is written on the way."""
    if cache_format == INT8:
        scale, inverse = row_scale(greatest, False)
        tl.store(scales + slot, scale)
        return inverse
    if cache_format == FLOAT8:
        return tl.div_rn(1.0, tl.load(scales))
    return 1.0


@triton.jit
def rounded(x, inverse, cache, cache_format: tl.constexpr):
    """float32 [...] as the cache holds it."""
    if cache_format == INT8 or cache_format == FLOAT8:  # noqa: SIM109
        x = quantize(x, inverse, cache_format == FLOAT8)
    return x.to(cache.dtype.element_ty)
