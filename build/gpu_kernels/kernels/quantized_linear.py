"""Products of rows with int8, int4, float8 or coded weights, widened in tiles and summed as `split_sums` says."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.activation import ACTIVATION_KINDS, activated
from inflight.build.gpu_kernels.kernels.rounding import from_float8
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, GRID, SHARED, gathered, publish
from inflight.build.gpu_kernels.kernels.split_sums import tune as tune_sums
from inflight.build.gpu_kernels.spec import Argument, Constant, KernelSpec, Tuning, Variant

WEIGHTS = {"int8": 0, "float8": 1, "int4": 2, "uint4": 3}
ROWS = {"plain": 0, "int8": 1, "float8": 2}
# Of `shares`: which weights have one scale.
MATRIX, OUTPUT, GROUP = 0, 1, 2
# Of `ends`, what becomes of a product.
STORES, ADDS, GATES = 0, 1, 2
MANY_ROWS = 32
_INT8 = tl.constexpr(0)
_FLOAT8 = tl.constexpr(1)
_INT4 = tl.constexpr(2)
_INT8_ROWS = tl.constexpr(1)
_FLOAT8_ROWS = tl.constexpr(2)
_MATRIX = tl.constexpr(0)
_GROUP = tl.constexpr(2)
_ADDS = tl.constexpr(1)
_GATES = tl.constexpr(2)


@triton.jit
def quantized_linear(
    x,
    x_scale,
    weight,
    weight_scale,
    unit,
    zero,
    codebook,
    bias,
    residual,
    y,
    partial,
    arrived,
    rows,
    n: tl.constexpr,
    k: tl.constexpr,
    weights: tl.constexpr,
    rounded: tl.constexpr,
    shares: tl.constexpr,
    group_size: tl.constexpr,
    has_unit: tl.constexpr,
    has_zero: tl.constexpr,
    has_bias: tl.constexpr,
    ends: tl.constexpr,
    activation: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    split_k: tl.constexpr,
    splits: tl.constexpr,
    cuts: tl.constexpr,
):
    """Program (tile of rows, tile of weights, its cuts): p = (x weight') x_scale + bias; y = p, residual + p, or
    activation(p) * residual, as `ends` says.

    x [rows, k]: float32, bfloat16 or float16, or as `rounded` says int8 levels or the bits of float8, with x_scale
    float32 [rows]. weight int8 bytes: [n, k] levels or bits of float8, or [n, ceil(k / 2)] with inputs 2i (low half)
    and 2i + 1 of an output in a byte: levels of int4, or codes of `codebook` float32 [16]. A weight is its level times
    its scale: weight_scale [1], [n] or [n, groups] of any number type, as `shares` says, times unit float32 [n] if
    `has_unit`; plus zero [n, groups] of any float type if `has_zero`. bias [n] of any float type; residual and y
    float32 [rows, n], which may be the same memory. partial and arrived are those of `linear`. `block_k`, a power of
    two of at least 32, divides group_size.
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    line = tl.program_id(1) * block_n + tl.arange(0, block_n)
    shape: tl.constexpr = (n, k, split_k, block_rows, block_n, block_k)
    kinds: tl.constexpr = (weights, rounded, shares, group_size, has_zero)
    arrays = (x, weight, weight_scale, zero, codebook)
    finished = True
    sums = _sums_of_split(arrays, row, line, rows, tl.program_id(2) * cuts, shape, kinds)
    for split in range(1, cuts):
        sums += _sums_of_split(arrays, row, line, rows, split, shape, kinds)
    if cuts < splits:
        finished, places, area = publish(sums, partial, arrived, splits, 1, block_rows, block_n)
        if finished:
            sums = gathered(places, area, splits, block_rows, block_n)
    if finished:
        last = tl.minimum(line, n - 1)
        stored = (row < rows)[None, :] & (line < n)[:, None]
        at = row.to(tl.int64)[None, :] * n + line[:, None]
        if shares != _GROUP:
            sums *= tl.load(weight_scale + (0 if shares == _MATRIX else last)).to(tl.float32)[:, None]
        if has_unit:
            sums *= tl.load(unit + last)[:, None]
        if rounded != 0:
            sums *= tl.load(x_scale + row, mask=row < rows, other=0.0)[None, :]
        if has_bias:
            sums += tl.load(bias + last).to(tl.float32)[:, None]
        if ends == _ADDS:
            sums = tl.load(residual + at, mask=stored, other=0.0) + sums
        if ends == _GATES:
            sums = activated(sums, activation) * tl.load(residual + at, mask=stored, other=0.0)
        tl.store(y + at, sums, mask=stored)


@triton.jit
def _sums_of_split(arrays, row, line, rows, split, shape: tl.constexpr, kinds: tl.constexpr):
    """float32 [block_n, block_rows]: the part of the product between split * split_k and the next cut, scaled where
    groups have scales."""
    x, weight, weight_scale, zero, codebook = arrays
    n: tl.constexpr = shape[0]
    k: tl.constexpr = shape[1]
    split_k: tl.constexpr = shape[2]
    block_rows: tl.constexpr = shape[3]
    block_n: tl.constexpr = shape[4]
    block_k: tl.constexpr = shape[5]
    rounded: tl.constexpr = kinds[1]
    group_size: tl.constexpr = kinds[3]
    halves: tl.constexpr = kinds[0] >= _INT4
    row_bytes: tl.constexpr = (k + 1) // 2 if halves else k
    groups: tl.constexpr = (k + group_size - 1) // group_size if group_size > 0 else 1
    # Lines past the end read the last one, rows past the end read zeros; neither is stored.
    last = tl.minimum(line, n - 1).to(tl.int64)
    stored = weight + last[:, None] * row_bytes
    inputs = x + row.to(tl.int64)[None, :] * k
    sums = tl.zeros((block_n, block_rows), tl.float32)
    whole = tl.zeros((block_n, block_rows), tl.int32)
    for start in range(split * split_k, tl.minimum((split + 1) * split_k, k), block_k):
        at = start + tl.arange(0, block_k)
        right = tl.load(inputs + at[:, None], mask=(row < rows)[None, :] & (at < k)[:, None], other=0)
        place = at // 2 if halves else at
        left = tl.load(stored + place[None, :], mask=(at < k)[None, :], other=0)
        if halves:
            left = (left >> ((at & 1) * 4).to(tl.int8)[None, :]) & 15
        if rounded == _INT8_ROWS:
            # Sums of integers are exact, and so have no order.
            level = (left ^ 8) - 8 if kinds[0] == _INT4 else left
            whole = tl.dot(level.to(tl.int8), right, whole, out_dtype=tl.int32)
            if kinds[2] == _GROUP:
                scale = _scale_of_group(weight_scale, last, groups, start // group_size)
                sums = tl.fma(whole.to(tl.float32), scale, sums)
                whole = tl.zeros((block_n, block_rows), tl.int32)
            if kinds[4]:
                of_group = tl.load(zero + last * groups + start // group_size).to(tl.float32)
                totals = tl.sum(right.to(tl.int32), axis=0).to(tl.float32)
                sums = tl.fma(of_group[:, None], totals[None, :], sums)
        else:
            numbers = from_float8(right, tl.float16) if rounded == _FLOAT8_ROWS else right
            level = _widened(left, codebook, kinds[0], numbers)
            if kinds[2] == _GROUP:
                product = tl.dot(level, numbers, input_precision="ieee")
                sums = tl.fma(product, _scale_of_group(weight_scale, last, groups, start // group_size), sums)
            else:
                sums = tl.dot(level, numbers, sums, input_precision="ieee")
            if kinds[4]:
                of_group = tl.load(zero + last * groups + start // group_size).to(tl.float32)
                totals = tl.sum(numbers.to(tl.float32), axis=0)
                sums = tl.fma(of_group[:, None], totals[None, :], sums)
    if rounded == _INT8_ROWS and kinds[2] != _GROUP:
        sums += whole.to(tl.float32)
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


def tune(sm: int, variant: Variant) -> Tuning:
    """The cuts of `split_sums`, with steps that divide a group."""
    group_size = int(variant.constants["group_size"])
    plain = tune_sums(sm, Variant({"x": "fp32" if variant.types["x"] == "fp32" else "bf16"}, variant.constants))
    block_k = min(64, group_size & -group_size) if group_size else 64
    constants: dict[str, Constant] = {**plain.constants, "block_k": block_k, "block_n": 64}
    constants["block_n"] = 32 if int(variant.constants["block_rows"]) > FEW_ROWS else 64
    return Tuning(num_warps=4, num_stages=2, constants=constants)


def quantized_variant(
    n: int,
    k: int,
    weights: str,
    rounded: str,
    *,
    few: bool,
    shares: int,
    group_size: int = 0,
    has_unit: bool = False,
    zero: str | None = None,
    bias: str | None = None,
    ends: int = STORES,
    activation: str = "silu",
    x: str = "bf16",
    weight_scale: str = "fp32",
) -> Variant:
    """For weights (n, k) of a kind in WEIGHTS and rows of a kind in ROWS, which are of type `x` where they are plain.
    `zero` and `bias`: their types, None where there are none. `few`: for launches of at most FEW_ROWS rows."""
    constants: dict[str, Constant] = {
        "n": n,
        "k": k,
        "weights": WEIGHTS[weights],
        "rounded": ROWS[rounded],
        "shares": shares,
        "group_size": group_size,
        "has_unit": has_unit,
        "has_zero": zero is not None,
        "has_bias": bias is not None,
        "ends": ends,
        "activation": ACTIVATION_KINDS[activation],
        "block_rows": FEW_ROWS if few else MANY_ROWS,
    }
    types = {"x": x if rounded == "plain" else "i8", "weight_scale": weight_scale}
    return Variant({**types, "zero": zero or "fp32", "bias": bias or "fp32"}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="quantized_linear",
        arguments=(
            Argument("x", "*{x}"),
            Argument("x_scale", "*fp32"),
            Argument("weight", "*i8"),
            Argument("weight_scale", "*{weight_scale}"),
            Argument("unit", "*fp32"),
            Argument("zero", "*{zero}"),
            Argument("codebook", "*fp32"),
            Argument("bias", "*{bias}"),
            Argument("residual", "*fp32"),
            Argument("y", "*fp32"),
            *SHARED,
        ),
        grid=GRID,
        tune=tune,
        variants=(
            quantized_variant(4096, 4096, "int8", "plain", few=True, shares=OUTPUT, ends=ADDS),
            quantized_variant(4096, 4096, "int8", "plain", few=False, shares=OUTPUT, ends=ADDS),
            quantized_variant(6144, 4096, "int8", "int8", few=True, shares=OUTPUT, bias="bf16"),
            quantized_variant(6144, 4096, "int8", "int8", few=False, shares=OUTPUT, bias="bf16"),
            quantized_variant(4096, 4096, "float8", "float8", few=True, shares=MATRIX),
            quantized_variant(4096, 4096, "float8", "float8", few=False, shares=OUTPUT),
            quantized_variant(14336, 4096, "int4", "plain", few=True, shares=GROUP, group_size=128, ends=GATES),
            quantized_variant(14336, 4096, "int4", "plain", few=False, shares=GROUP, group_size=32, zero="fp32"),
            quantized_variant(4096, 4096, "int4", "int8", few=True, shares=GROUP, group_size=128, has_unit=True),
            quantized_variant(4096, 4096, "uint4", "plain", few=True, shares=GROUP, group_size=64),
        ),
        decode_path=True,
    ),
)
