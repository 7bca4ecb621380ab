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
LIFT = tl.constexpr(64.0)


@triton.jit
def attend(
    query,
    cache,
    state,
    start,
    rows,
    kv_head,
    layout: tl.constexpr,
    rule: tl.constexpr,
    block_n: tl.constexpr,
    masked: tl.constexpr,
):
    """The state (maximum [M] in powers of two, total [M], output [M, padded_head], all float32) after one tile more.

    query [M, padded_head]; cache = (key_cache, value_cache, key_scales, value_scales, the sequence's block table);
    layout = (num_kv_heads, tokens_per_block, head_size, padded_head, cache_format, native_float8);
    rows = (first, last, row_positions, bias_rows); rule = (scale, soft_cap, window, chunk, has_bias). The tile is
    tokens start .. start + block_n, of which first .. last may be read, and row m sees those from `first_seen` up to
    row_positions[m]; without `masked` every row sees all. What lies at bias_rows[m] + token (float32, see
    `bias_of_rows`) is added to its score when has_bias, with which no soft cap goes.
    """
    key_cache, value_cache, key_scales, value_scales, block_table = cache
    first, last, row_positions, bias_rows = rows
    maximum, total, output = state
    num_kv_heads: tl.constexpr = layout[0]
    tokens_per_block: tl.constexpr = layout[1]
    head_size: tl.constexpr = layout[2]
    padded_head: tl.constexpr = layout[3]
    cache_format: tl.constexpr = layout[4]
    native_float8: tl.constexpr = layout[5]
    soft_cap: tl.constexpr = rule[1]
    window: tl.constexpr = rule[2]
    chunk: tl.constexpr = rule[3]
    has_bias: tl.constexpr = rule[4]
    tokens = start + tl.arange(0, block_n)
    written = (tokens >= first) & (tokens <= last)
    places = cache_rows(block_table, start, last, kv_head, num_kv_heads, tokens_per_block, block_n)
    keys = load_rows(key_cache, places, written, head_size, padded_head, masked)
    keys = operand(keys, query.dtype, cache_format, native_float8)
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
    factor = rule[0] * LOG2_E
    if cache_format == INT8:
        scores = scores * tl.load(key_scales + places, mask=written, other=0.0)[None, :]
    if cache_format == FLOAT8:
        factor = factor * tl.load(key_scales)
    if soft_cap > 0.0:
        # tanh(z) = 2 sigmoid(2 z) - 1.
        scores = 2.0 * tl.sigmoid(scores * (factor * (2.0 / (soft_cap * LOG2_E)))) - 1.0
        factor = soft_cap * LOG2_E
    if has_bias:
        added = tl.load(bias_rows[:, None] + tokens[None, :], mask=tokens[None, :] <= row_positions[:, None], other=0.0)
        scores = tl.fma(scores, tl.zeros_like(scores) + factor, added * LOG2_E)
        factor = 1.0
    if masked:
        visible = tokens[None, :] <= row_positions[:, None]
        if window > 0:
            visible = visible & (tokens[None, :] > row_positions[:, None] - window)
        if chunk > 0:
            visible = visible & (tokens[None, :] >= (row_positions // chunk * chunk)[:, None])
        scores = tl.where(visible, scores, float("-inf"))
    weights, decay, maximum, total = weighed(scores, factor, maximum, total)
    values = load_rows(value_cache, places, written, head_size, padded_head, masked)
    if cache_format == INT8:
        weights = weights * (tl.load(value_scales + places, mask=written, other=0.0) * LIFT)[None, :]
    values = operand(values, query.dtype, cache_format, native_float8)
    output = tl.dot(weights.to(query.dtype), values, output * decay[:, None], input_precision="ieee")
    return maximum, total, output


@triton.jit
def weighed(scores, factor, maximum, total):
    """(weights [M, block_n], what the output so far is multiplied with, the maximum, the total) with a tile of scores
    more, `factor` powers of two for 1; the weights are not yet divided by the total."""
    greatest = tl.maximum(maximum, tl.max(scores, axis=1) * factor)
    base = tl.where(greatest == float("-inf"), 0.0, greatest)
    weights = tl.exp2(tl.fma(scores, tl.zeros_like(scores) + factor, tl.zeros_like(scores) - base[:, None]))
    decay = tl.exp2(maximum - base)
    return weights, decay, greatest, total * decay + tl.sum(weights, axis=1)


@triton.jit
def scaled(output, value_scales, cache_format: tl.constexpr):
    """What `attend` left of the values' scales."""
    if cache_format == FLOAT8:
        return output * tl.load(value_scales)
    if cache_format == INT8:
        return output * (1.0 / LIFT)
    return output


@triton.jit
def first_seen(position, window: tl.constexpr, chunk: tl.constexpr):
    """The first token that a row sees: of the last `window` when window > 0, from the last multiple of `chunk` on when
    chunk > 0. 0 for a row that is not there, of position -1."""
    if window > 0:
        return tl.maximum(position + 1 - window, 0)
    if chunk > 0:
        return tl.maximum(position, 0) // chunk * chunk
    return 0


@triton.jit
def bias_of_rows(bias, heads, row_positions, width: tl.constexpr, origin: tl.constexpr):
    """Where the number lies that is added to each row's score of token 0, in bias float32 [num_heads, width]: in the
    column of the token's position less the row's, plus `origin`, or with an origin of -1 that of its position."""
    rows = bias + heads.to(tl.int64) * width
    if origin >= 0:
        rows = rows + (origin - row_positions)
    return rows


@triton.jit
def with_sink(maximum, total, sink):
    """(what the output is multiplied with, the total) after one score more, `sink`, that has no value."""
    power = sink * LOG2_E
    greatest = tl.maximum(maximum, power)
    decay = tl.exp2(maximum - greatest)
    return decay, total * decay + tl.exp2(power - greatest)
