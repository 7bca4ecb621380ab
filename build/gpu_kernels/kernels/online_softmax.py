"""One step of attention over a tile of keys and values: scores, softmax on the way (Milakov and Gimelshein, 2018).

The order of a row's arithmetic is that of its own tiles from first to last, whatever other rows share the program. A
tile of which a row sees nothing leaves its maximum, sum and output as they were.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.paged_cache import FLOAT8, INT8, cache_rows, load_rows, operand

LOG2_E = tl.constexpr(1.4426950408889634)
# Weights times scales of INT8 values are small; this keeps them among the normal numbers of float16. So is the
# greatest scale, 65504 / 127, times this.
_LIFT = tl.constexpr(64.0)


@triton.jit
def attend(
    query,
    cache,
    state,
    start,
    first,
    last,
    row_positions,
    kv_head,
    layout: tl.constexpr,
    rule: tl.constexpr,
    block_n: tl.constexpr,
    masked: tl.constexpr,
):
    """The state (maximum [M] in powers of two, total [M], output [M, padded_head], all float32) after one tile more.

    query [M, padded_head]; cache = (key_cache, value_cache, key_scales, value_scales, the sequence's block table);
    layout = (num_kv_heads, tokens_per_block, head_size, padded_head, cache_format, native_float8);
    rule = (scale, soft_cap, window). The tile is tokens start .. start + block_n, of which first .. last may be read,
    and row m sees those up to row_positions[m], the last `window` of them when window > 0. Without `masked` every row
    sees all.
    """
    key_cache, value_cache, key_scales, value_scales, block_table = cache
    maximum, total, output = state
    num_kv_heads: tl.constexpr = layout[0]
    tokens_per_block: tl.constexpr = layout[1]
    head_size: tl.constexpr = layout[2]
    padded_head: tl.constexpr = layout[3]
    cache_format: tl.constexpr = layout[4]
    native_float8: tl.constexpr = layout[5]
    soft_cap: tl.constexpr = rule[1]
    window: tl.constexpr = rule[2]
    tokens = start + tl.arange(0, block_n)
    written = (tokens >= first) & (tokens <= last)
    rows = cache_rows(block_table, start, last, kv_head, num_kv_heads, tokens_per_block, block_n)
    keys = load_rows(key_cache, rows, written, head_size, padded_head, masked)
    keys = operand(keys, query.dtype, cache_format, native_float8)
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
    factor = rule[0] * LOG2_E
    if cache_format == INT8:
        scores = scores * tl.load(key_scales + rows, mask=written, other=0.0)[None, :]
    if cache_format == FLOAT8:
        factor = factor * tl.load(key_scales)
    if soft_cap > 0.0:
        # tanh(z) = 2 sigmoid(2 z) - 1.
        scores = 2.0 * tl.sigmoid(scores * (factor * (2.0 / (soft_cap * LOG2_E)))) - 1.0
        factor = soft_cap * LOG2_E
    if masked:
        visible = tokens[None, :] <= row_positions[:, None]
        if window > 0:
            visible = visible & (tokens[None, :] > row_positions[:, None] - window)
        scores = tl.where(visible, scores, float("-inf"))
    greatest = tl.maximum(maximum, tl.max(scores, axis=1) * factor)
    base = tl.where(greatest == float("-inf"), 0.0, greatest)
    weights = tl.exp2(tl.fma(scores, tl.zeros_like(scores) + factor, tl.zeros_like(scores) - base[:, None]))
    decay = tl.exp2(maximum - base)
    total = total * decay + tl.sum(weights, axis=1)
    values = load_rows(value_cache, rows, written, head_size, padded_head, masked)
    if cache_format == INT8:
        weights = weights * (tl.load(value_scales + rows, mask=written, other=0.0) * _LIFT)[None, :]
    values = operand(values, query.dtype, cache_format, native_float8)
    output = tl.dot(weights.to(query.dtype), values, output * decay[:, None], input_precision="ieee")
    return greatest, total, output


@triton.jit
def scaled(output, value_scales, cache_format: tl.constexpr):
    """What `attend` left of the values' scales."""
    if cache_format == FLOAT8:
        return output * tl.load(value_scales)
    if cache_format == INT8:
        return output * (1.0 / _LIFT)
    return output
