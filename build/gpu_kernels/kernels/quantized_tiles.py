"""Tiles of products with quantized weights: widened in registers, scaled by group, summed as `split_sums` says.

`quantized_linear` and `quantized_expert_linear` are made of these.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.architectures import SHORT_FLOAT8_BITS, architecture_of
from inflight.build.gpu_kernels.kernels.rounding import from_float8
from inflight.build.gpu_kernels.spec import Constant, Variant

WEIGHTS = {"int8": 0, "float8": 1, "int4": 2, "uint4": 3}
ROWS = {"plain": 0, "int8": 1, "float8": 2}
# Of `shares`: which weights have one scale.
MATRIX, OUTPUT, GROUP = 0, 1, 2
# Of `float8_sums`: float8 rows are multiplied in 16 bits; or in float8, and the sums of a step are added in float32, or
# stay in tensor cores from the first step to the last.
WIDENED, PROMOTED, KEPT = 0, 1, 2
_MOST_STEP = 64
# Inputs whose float8 products are summed by tensor cores alone.
PROMOTED_STEP = 128
# What tl.dot takes of the inner dimension at least, of bytes.
_LEAST_BYTES_STEP = 32
_BYTES_STEP = tl.constexpr(_LEAST_BYTES_STEP)
_INT8 = tl.constexpr(0)
_FLOAT8 = tl.constexpr(1)
_INT4 = tl.constexpr(2)
_INT8_ROWS = tl.constexpr(1)
_FLOAT8_ROWS = tl.constexpr(2)
_MATRIX = tl.constexpr(0)
_GROUP = tl.constexpr(2)
_WIDENED = tl.constexpr(WIDENED)
_PROMOTED = tl.constexpr(PROMOTED)


@triton.jit
def quantized_sums(arrays, row, line, rows, split, shape: tl.constexpr, kinds: tl.constexpr):
    """float32 [block_n, block_rows]: the part of the product between split * split_k and the next cut, of levels times
    what groups have: scales, zero points, or multiples of a unit.

    arrays = (x [.., k], weight, weight_scale, zero, codebook), of which weight begins with the matrix' first line and
    the others with what belongs to that: see `quantized_linear`. row [block_rows] and line [block_n] are numbers of
    rows, those from `rows` on not being there, and of the n lines. shape = (n, k, split_k, block_rows, block_n,
    block_k); kinds = (weights, rounded, shares, group_size, has_unit, has_zero, float8_sums). `block_k` is at least
    LEAST_INNER, and divides split_k, and group_size where groups have scales. With a unit the multiples of groups, at
    most 15 either way, are part of the levels: so sums of integers are exact over all of k. float8_sums: WIDENED, or
    how tensor cores that take float8 sum it.
    """
    x, weight, weight_scale, zero, codebook = arrays
    n: tl.constexpr = shape[0]
    k: tl.constexpr = shape[1]
    split_k: tl.constexpr = shape[2]
    block_k: tl.constexpr = shape[5]
    rounded: tl.constexpr = kinds[1]
    group_size: tl.constexpr = kinds[3]
    has_unit: tl.constexpr = kinds[4]
    native: tl.constexpr = kinds[6] != _WIDENED
    nothing: tl.constexpr = 0.0 if native else 0
    # Whether sums of groups are scaled, each on its own.
    apart: tl.constexpr = kinds[2] == _GROUP and not has_unit
    groups: tl.constexpr = (k + group_size - 1) // group_size if group_size > 0 else 1
    # Lines past the end read the last one, rows past the end read zeros; neither is stored.
    last = tl.minimum(line, n - 1).to(tl.int64)
    if native:
        # Bytes that are loaded as float8 go to tensor cores by way of shared memory alone.
        x = x.to(tl.pointer_type(tl.float8e4nv), bitcast=True)
        if kinds[0] == _FLOAT8:
            weight = weight.to(tl.pointer_type(tl.float8e4nv), bitcast=True)
    inputs = x + row.to(tl.int64)[None, :] * k
    sums = tl.zeros((shape[4], shape[3]), tl.float32)
    whole = tl.zeros((shape[4], shape[3]), tl.int32)
    for start in range(split * split_k, tl.minimum((split + 1) * split_k, k), block_k):
        at = start + tl.arange(0, block_k)
        if k % block_k == 0:
            right = tl.load(inputs + at[:, None], mask=(row < rows)[None, :], other=nothing)
        else:
            right = tl.load(inputs + at[:, None], mask=(row < rows)[None, :] & (at < k)[:, None], other=nothing)
        left = _levels(weight, last, start, k, block_k, kinds[0], nothing)
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
            numbers = from_float8(right, tl.float16) if rounded == _FLOAT8_ROWS and not native else right
            level = left
            if not (native and kinds[0] == _FLOAT8):
                level = _widened(left, codebook, _INT8 if has_unit else kinds[0], numbers)
            if apart:
                product = tl.dot(level, numbers, input_precision="ieee")
                sums = tl.fma(product, _scale_of_group(weight_scale, last, groups, start // group_size), sums)
            elif kinds[6] == _PROMOTED:
                # No mere addition: the compiler would make one sum of both, in the tensor core.
                sums = tl.fma(tl.dot(level, numbers), 1.0, sums)
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
def _levels(weight, last, start, k: tl.constexpr, block_k: tl.constexpr, weights: tl.constexpr, nothing: tl.constexpr):
    """int8, or float8 that is loaded as such, [block_n, block_k]: what lines have stored for inputs start .. start +
    block_k, two of which share a byte where levels have 4 bits; `nothing`, or anything of 4 bits, from k on."""
    if weights < _INT4:
        at = start + tl.arange(0, block_k)
        stored = weight + last[:, None] * k + at[None, :]
        levels = tl.load(stored) if k % block_k == 0 else tl.load(stored, mask=(at < k)[None, :], other=nothing)
    else:
        half = start // 2 + tl.arange(0, block_k // 2)
        row_bytes: tl.constexpr = (k + 1) // 2
        stored = weight + last[:, None] * row_bytes + half[None, :]
        inside = (half < row_bytes)[None, :]
        pairs = tl.load(stored) if k % block_k == 0 else tl.load(stored, mask=inside, other=0)
        levels = tl.join(pairs & 15, (pairs >> 4) & 15).reshape(pairs.shape[0], block_k)
    return levels


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


def steps_of(sm: int, variant: Variant) -> dict[str, Constant]:
    """`block_k` and `float8_sums` of a generation. A step lies in one group, where groups have scales."""
    group_size, has_unit = int(variant.constants["group_size"]), bool(variant.constants["has_unit"])
    divisor = group_size & -group_size if group_size and not has_unit else PROMOTED_STEP
    if variant.constants["float8_sums"] == WIDENED or not takes_float8(sm, variant):
        return {"block_k": min(_MOST_STEP, divisor), "float8_sums": WIDENED}
    exact = architecture_of(sm).float8_bits > SHORT_FLOAT8_BITS
    return {"block_k": min(PROMOTED_STEP, divisor), "float8_sums": KEPT if exact else PROMOTED}


def takes_float8(sm: int, variant: Variant) -> bool:
    """Whether tensor cores of the generation could multiply rows and weights of a kernel of these tiles as float8."""
    kinds = variant.constants
    if kinds.get("rounded") != ROWS["float8"] or not architecture_of(sm).float8_bits:
        return False
    group_size, has_unit = int(kinds["group_size"]), bool(kinds["has_unit"])
    whole = group_size == 0 or (group_size & -group_size) >= _LEAST_BYTES_STEP
    # Integers of 4 bits are numbers of float8; multiples of them are not.
    return whole and (kinds["weights"] == WEIGHTS["float8"] or (kinds["weights"] == WEIGHTS["int4"] and not has_unit))


def kinds_of(
    weights: str,
    rounded: str,
    *,
    shares: int,
    group_size: int,
    has_unit: bool,
    zero: str | None,
    native_float8: bool = False,
) -> dict[str, Constant]:
    """The constants of `kinds`. weights, rounded: of WEIGHTS and ROWS; `zero`: the type of zero points, or None.
    `native_float8`: where a generation `takes_float8`."""
    return {
        "weights": WEIGHTS[weights],
        "rounded": ROWS[rounded],
        "shares": shares,
        "group_size": group_size,
        "has_unit": has_unit,
        "has_zero": zero is not None,
        "float8_sums": PROMOTED if native_float8 and rounded == "float8" else WIDENED,
    }
