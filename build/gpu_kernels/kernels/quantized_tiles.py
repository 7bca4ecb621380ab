"""Tiles of products with quantized weights: widened in registers, scaled by group, summed as `split_sums` says.

`quantized_linear` and `quantized_expert_linear` are made of these.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.rounding import from_float8
from inflight.build.gpu_kernels.spec import Constant

WEIGHTS = {"int8": 0, "float8": 1, "int4": 2, "uint4": 3}
ROWS = {"plain": 0, "int8": 1, "float8": 2}
# Of `shares`: which weights have one scale.
MATRIX, OUTPUT, GROUP = 0, 1, 2
_MOST_STEP = 64
# What tl.dot takes of the inner dimension at least, of bytes.
_BYTES_STEP = tl.constexpr(32)
_INT8 = tl.constexpr(0)
_FLOAT8 = tl.constexpr(1)
_INT4 = tl.constexpr(2)
_INT8_ROWS = tl.constexpr(1)
_FLOAT8_ROWS = tl.constexpr(2)
_MATRIX = tl.constexpr(0)
_GROUP = tl.constexpr(2)


@triton.jit
def quantized_sums(arrays, row, line, rows, split, shape: tl.constexpr, kinds: tl.constexpr):
    """float32 [block_n, block_rows]: the part of the product between split * split_k and the next cut, of levels times
    what groups have: scales, zero points, or multiples of a unit.

    arrays = (x [.., k], weight, weight_scale, zero, codebook), of which weight begins with the matrix' first line and
    the others with what belongs to that: see `quantized_linear`. row [block_rows] and line [block_n] are numbers of
    rows, those from `rows` on not being there, and of the n lines. shape = (n, k, split_k, block_rows, block_n,
    block_k); kinds = (weights, rounded, shares, group_size, has_unit, has_zero). `block_k` is at least LEAST_INNER,
    and divides group_size where groups have scales. With a unit the multiples of groups, at most 15 either way, are
    part of the levels: so sums of integers are exact over all of k.
    """
    x, weight, weight_scale, zero, codebook = arrays
    n: tl.constexpr = shape[0]
    k: tl.constexpr = shape[1]
    split_k: tl.constexpr = shape[2]
    block_k: tl.constexpr = shape[5]
    rounded: tl.constexpr = kinds[1]
    group_size: tl.constexpr = kinds[3]
    has_unit: tl.constexpr = kinds[4]
    # Whether sums of groups are scaled, each on its own.
    apart: tl.constexpr = kinds[2] == _GROUP and not has_unit
    groups: tl.constexpr = (k + group_size - 1) // group_size if group_size > 0 else 1
    # Lines past the end read the last one, rows past the end read zeros; neither is stored.
    last = tl.minimum(line, n - 1).to(tl.int64)
    inputs = x + row.to(tl.int64)[None, :] * k
    sums = tl.zeros((shape[4], shape[3]), tl.float32)
    whole = tl.zeros((shape[4], shape[3]), tl.int32)
    for start in range(split * split_k, tl.minimum((split + 1) * split_k, k), block_k):
        at = start + tl.arange(0, block_k)
        if k % block_k == 0:
            right = tl.load(inputs + at[:, None], mask=(row < rows)[None, :], other=0)
        else:
            right = tl.load(inputs + at[:, None], mask=(row < rows)[None, :] & (at < k)[:, None], other=0)
        left = _levels(weight, last, start, k, block_k, kinds[0])
        if has_unit:
            # Of int4 alone.
            left = ((left ^ 8) - 8) * _multiples(weight_scale, last, start, k, shape[4], block_k, group_size)
            left = left.to(tl.int8)
        elif rounded == _INT8_ROWS and kinds[0] == _INT4:
            left = ((left ^ 8) - 8).to(tl.int8)
        if rounded == _INT8_ROWS:
            # Sums of integers are exact, and so have no order.
            if block_k < _BYTES_STEP:
                # Of 16 products of bytes float32 holds the sum, too.
                numbers = right.to(tl.float32).to(tl.float16)
                product = tl.dot(left.to(tl.float32).to(tl.float16), numbers)
            else:
                whole = tl.dot(left, right, whole, out_dtype=tl.int32)
                product = whole.to(tl.float32)
            if apart:
                sums = tl.fma(product, _scale_of_group(weight_scale, last, groups, start // group_size), sums)
                whole = tl.zeros((shape[4], shape[3]), tl.int32)
            if kinds[5]:
                of_group = tl.load(zero + last * groups + start // group_size).to(tl.float32)
                totals = tl.sum(right.to(tl.int32), axis=0).to(tl.float32)
                sums = tl.fma(of_group[:, None], totals[None, :], sums)
        else:
            numbers = from_float8(right, tl.float16) if rounded == _FLOAT8_ROWS else right
            level = _widened(left, codebook, _INT8 if has_unit else kinds[0], numbers)
            if apart:
                product = tl.dot(level, numbers, input_precision="ieee")
                sums = tl.fma(product, _scale_of_group(weight_scale, last, groups, start // group_size), sums)
            else:
                sums = tl.dot(level, numbers, sums, input_precision="ieee")
            if kinds[5]:
                of_group = tl.load(zero + last * groups + start // group_size).to(tl.float32)
                totals = tl.sum(numbers.to(tl.float32), axis=0)
                sums = tl.fma(of_group[:, None], totals[None, :], sums)
    if rounded == _INT8_ROWS and not apart:
        sums += whole.to(tl.float32)
    return sums


@triton.jit
def _levels(weight, last, start, k: tl.constexpr, block_k: tl.constexpr, weights: tl.constexpr):
    """int8 [block_n, block_k]: what lines have stored for inputs start .. start + block_k, two of which share a byte
    where levels have 4 bits; anything for inputs from k on."""
    if weights < _INT4:
        at = start + tl.arange(0, block_k)
        stored = weight + last[:, None] * k + at[None, :]
        if k % block_k == 0:
            return tl.load(stored)
        return tl.load(stored, mask=(at < k)[None, :], other=0)
    half = start // 2 + tl.arange(0, block_k // 2)
    row_bytes: tl.constexpr = (k + 1) // 2
    stored = weight + last[:, None] * row_bytes + half[None, :]
    inside = (half < row_bytes)[None, :]
    pairs = tl.load(stored) if k % block_k == 0 else tl.load(stored, mask=inside, other=0)
    return tl.join(pairs & 15, (pairs >> 4) & 15).reshape(pairs.shape[0], block_k)


@triton.jit
def _multiples(
    multiples, last, start, k: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, group_size: tl.constexpr
):
    """int8 [block_n, block_k or 1]: those of the groups in which inputs start .. start + block_k of lines lie."""
    groups: tl.constexpr = (k + group_size - 1) // group_size
    of_lines = multiples + last[:, None] * groups
    if group_size % block_k == 0:
        return tl.load(of_lines + start // group_size)
    if block_k % group_size == 0:
        count: tl.constexpr = block_k // group_size
        group = start // group_size + tl.arange(0, count)
        found = tl.load(of_lines + group[None, :], mask=(group < groups)[None, :], other=0)
        return tl.broadcast_to(found[:, :, None], (block_n, count, group_size)).reshape(block_n, block_k)
    at = start + tl.arange(0, block_k)
    return tl.load(of_lines + (at // group_size)[None, :], mask=(at < k)[None, :], other=0)


@triton.jit
def scaled_sums(sums, arrays, row, line, rows, n: tl.constexpr, kinds: tl.constexpr):
    """Sums of all cuts times what is left of scales: those of the matrix or of outputs, units, and those of rows.

    arrays = (weight_scale, unit, x_scale), the first two beginning with the matrix' first line; `kinds` as above.
    """
    weight_scale, unit, x_scale = arrays
    last = tl.minimum(line, n - 1)
    if kinds[2] != _GROUP:
        sums *= tl.load(weight_scale + (0 if kinds[2] == _MATRIX else last)).to(tl.float32)[:, None]
    if kinds[4]:
        sums *= tl.load(unit + last)[:, None]
    if kinds[1] != 0:
        sums *= tl.load(x_scale + row, mask=row < rows, other=0.0)[None, :]
    return sums


@triton.jit
def _widened(left, codebook, weights: tl.constexpr, numbers):
    """Levels, codes or float8 of weights as numbers of the type of the rows."""
    if weights == _FLOAT8:
        return from_float8(left, tl.float16).to(tl.float32).to(numbers.dtype)
    if weights == _INT8:
        return left.to(tl.float32).to(numbers.dtype)
    if weights == _INT4:
        return ((left ^ 8) - 8).to(tl.float32).to(numbers.dtype)
    return tl.load(codebook + left.to(tl.int32)).to(numbers.dtype)


@triton.jit
def _scale_of_group(weight_scale, last, groups: tl.constexpr, group):
    return tl.load(weight_scale + last * groups + group).to(tl.float32)[:, None]


def block_k_of(group_size: int, *, has_unit: bool) -> int:
    """A step lies in one group, where groups have scales."""
    return min(_MOST_STEP, group_size & -group_size) if group_size and not has_unit else _MOST_STEP


def kinds_of(
    weights: str, rounded: str, *, shares: int, group_size: int, has_unit: bool, zero: str | None
) -> dict[str, Constant]:
    """The constants of `kinds`. weights, rounded: of WEIGHTS and ROWS; `zero`: the type of zero points, or None."""
    return {
        "weights": WEIGHTS[weights],
        "rounded": ROWS[rounded],
        "shares": shares,
        "group_size": group_size,
        "has_unit": has_unit,
        "has_zero": zero is not None,
    }
