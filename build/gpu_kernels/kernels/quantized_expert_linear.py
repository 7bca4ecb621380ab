"""Products of rows with the quantized matrices of the experts that they meet, in the tiles of `quantized_linear`."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.expert_linear import EXPERT_ACTIVATIONS, gated
from inflight.build.gpu_kernels.kernels.quantized_tiles import (
    GROUP,
    OUTPUT,
    kinds_of,
    quantized_sums,
    scaled_sums,
    steps_of,
)
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, MANY_FLOAT32_ROWS, SOME_ROWS
from inflight.build.gpu_kernels.kernels.weight_prefetch import prefetch_expert
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant

_INT4 = tl.constexpr(2)
_MATRIX = tl.constexpr(0)
_OUTPUT = tl.constexpr(1)


@triton.jit
def quantized_expert_linear(
    x,
    x_scale,
    weight,
    weight_scale,
    unit,
    zero,
    codebook,
    bias,
    pair_weights,
    order,
    begins,
    ends,
    next_weight,
    y,
    rows,
    n: tl.constexpr,
    k: tl.constexpr,
    experts: tl.constexpr,
    top_k: tl.constexpr,
    weights: tl.constexpr,
    rounded: tl.constexpr,
    shares: tl.constexpr,
    group_size: tl.constexpr,
    has_unit: tl.constexpr,
    has_zero: tl.constexpr,
    float8_sums: tl.constexpr,
    has_bias: tl.constexpr,
    gates: tl.constexpr,
    by_pair: tl.constexpr,
    weighs_inputs: tl.constexpr,
    activation: tl.constexpr,
    next_lines: tl.constexpr,
    next_row_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
):
    """Program (expert, tile of its weights): y [rows * top_k, n] of any float type, for all pairs of the expert.

    x and x_scale have a row for each pair when `by_pair`, else [rows], of which a pair reads its row, times
    pair_weights float32 [rows * top_k] if `weighs_inputs`. When `gates`, an expert has 2 n lines, of which what
    multiplies the activated half comes first, and y = (x up' + bias) * activation(x gate' + bias); else n lines, and
    y = x weight' + bias. weight, weight_scale, unit, zero: as `quantized_linear` has them, of the lines of all experts,
    one expert's behind the other's; codebook is that of all, bias [experts, lines] if `has_bias`. order, begins, ends:
    `sort_pairs`. A row is summed over k in one order, whatever rows are beside it. next_weight: as in `sort_pairs`,
    a part for each tile.
    """
    expert = tl.program_id(0)
    line = tl.program_id(1) * block_n + tl.arange(0, block_n)
    lines: tl.constexpr = 2 * n if gates else n
    inside = line < n
    first = expert.to(tl.int64) * lines
    beside = (weight, weight_scale, unit, zero, bias)
    shape: tl.constexpr = (n, k, k, block_rows, block_n, block_k)
    kinds: tl.constexpr = (weights, rounded, shares, group_size, has_unit, has_zero, float8_sums)
    begin, end = tl.load(begins + expert), tl.load(ends + expert)
    for start in range(begin, end, block_rows):
        place = start + tl.arange(0, block_rows)
        there = place < end
        pair = tl.load(order + place, mask=there, other=0)
        limit = rows * top_k if by_pair else rows
        row = tl.where(there, pair if by_pair else pair // top_k, limit)
        factors = tl.full([block_rows], 1.0, tl.float32)
        if weighs_inputs:
            factors = tl.load(pair_weights + pair, mask=there, other=0.0)
        given = (x, x_scale, codebook, factors, row, line, limit)
        sums = _of_lines(given, beside, first, shape, kinds, has_bias)
        if gates:
            sums = gated(_of_lines(given, beside, first + n, shape, kinds, has_bias), sums, activation)
        at = pair.to(tl.int64)[None, :] * n + line[:, None]
        tl.store(y + at, sums.to(y.dtype.element_ty), mask=there[None, :] & inside[:, None])
    if next_lines > 0 and begin < end:
        tile, tiles = tl.program_id(1), tl.num_programs(1)
        prefetch_expert(next_weight, expert, tile, tiles, rows * top_k, next_lines, next_row_size)


@triton.jit
def _of_lines(given, beside, first, shape: tl.constexpr, kinds: tl.constexpr, has_bias: tl.constexpr):
    """float32 [block_n, block_rows]: the product with the lines behind the `first` of all, and their bias."""
    x, x_scale, codebook, factors, row, line, limit = given
    weight, weight_scale, unit, zero, bias = beside
    n: tl.constexpr = shape[0]
    k: tl.constexpr = shape[1]
    shares: tl.constexpr = kinds[2]
    group_size: tl.constexpr = kinds[3]
    groups: tl.constexpr = (k + group_size - 1) // group_size if group_size > 0 else 1
    row_bytes: tl.constexpr = (k + 1) // 2 if kinds[0] >= _INT4 else k
    own = weight + first * row_bytes
    scales = weight_scale
    if shares == _OUTPUT:
        scales = weight_scale + first
    elif shares != _MATRIX:
        scales = weight_scale + first * groups
    arrays = (x, own, scales, zero + first * groups, codebook)
    # One cut, all of k.
    sums = quantized_sums(arrays, row, line, limit, tl.program_id(2), shape, kinds)
    sums = scaled_sums(sums, (scales, unit + first, x_scale), row, line, limit, n, kinds)
    sums *= factors[None, :]
    if has_bias:
        sums += tl.load(bias + first + tl.minimum(line, n - 1)).to(tl.float32)[:, None]
    return sums


def tune(sm: int, variant: Variant) -> Tuning:
    """The tiles of `quantized_linear`, with at most SOME_ROWS rows: an expert seldom meets more."""
    block_rows = int(variant.constants["block_rows"])
    blocks: dict[str, Constant] = {"block_n": 32 if block_rows == MANY_FLOAT32_ROWS else 64, **steps_of(sm, variant)}
    return Tuning(num_warps=4, num_stages=4 if block_rows == FEW_ROWS else 3, constants=blocks)


def quantized_expert_variant(
    n: int,
    k: int,
    experts: int,
    top_k: int,
    weights: str,
    rounded: str,
    *,
    few: bool,
    shares: int,
    group_size: int = 0,
    has_unit: bool = False,
    zero: str | None = None,
    bias: str | None = None,
    activation: str | None = None,
    by_pair: bool = False,
    weighs_inputs: bool = False,
    following: tuple[int, int] = (0, 0),
    x: str = "bf16",
    weight_scale: str = "fp32",
    y: str = "fp32",
    native_float8: bool = False,
) -> Variant:
    """For matrices (n, k), or with an `activation` of EXPERT_ACTIVATIONS (2 n, k), and rows of kinds that `kinds_of`
    knows, which are of type `x` where they are plain. `zero` and `bias`: their types, None where there are none.
    `few`: for at most FEW_ROWS rows. `by_pair`: each pair has a row of its own. `following`: see `sorting_variant`."""
    constants: dict[str, Constant] = {
        "n": n,
        "k": k,
        "experts": experts,
        "top_k": top_k,
        **kinds_of(
            weights,
            rounded,
            shares=shares,
            group_size=group_size,
            has_unit=has_unit,
            zero=zero,
            native_float8=native_float8,
        ),
        "has_bias": bias is not None,
        "gates": activation is not None,
        "by_pair": by_pair,
        "weighs_inputs": weighs_inputs,
        "activation": EXPERT_ACTIVATIONS[activation or "silu"],
        "next_lines": following[0],
        "next_row_size": following[1],
        "block_rows": FEW_ROWS if few else MANY_FLOAT32_ROWS if x == "fp32" else SOME_ROWS,
    }
    types = {"x": x if rounded == "plain" else "i8", "weight_scale": weight_scale, "y": y}
    return Variant({**types, "zero": zero or "fp32", "bias": bias or "fp32"}, constants)


_SIXTEENS: dict[str, Any] = {"shares": GROUP, "group_size": 16, "has_unit": True, "weight_scale": "i8"}
_CODES: dict[str, Any] = {"shares": GROUP, "group_size": 32, "bias": "bf16"}
_HUNDREDS: dict[str, Any] = {"shares": GROUP, "group_size": 128, "native_float8": True}
SPECS = (
    KernelSpec(
        module=__name__,
        function="quantized_expert_linear",
        arguments=(
            Argument("x", "*{x}"),
            Argument("x_scale", "*fp32"),
            Argument("weight", "*i8"),
            Argument("weight_scale", "*{weight_scale}"),
            Argument("unit", "*fp32"),
            Argument("zero", "*{zero}"),
            Argument("codebook", "*fp32"),
            Argument("bias", "*{bias}"),
            Argument("pair_weights", "*fp32"),
            Argument("order", "*i32"),
            Argument("begins", "*i32"),
            Argument("ends", "*i32"),
            Argument("next_weight", "*i8"),
            Argument("y", "*{y}"),
            Argument("rows", "i32"),
        ),
        grid=((Extent("experts"),), (Extent("n", "block_n"),)),
        tune=tune,
        variants=(
            quantized_expert_variant(
                2880, 2880, 32, 4, "uint4", "plain", few=True, activation="clamped_swiglu", y="bf16", **_CODES
            ),
            quantized_expert_variant(2880, 2880, 32, 4, "uint4", "plain", few=False, by_pair=True, **_CODES),
            quantized_expert_variant(
                768, 2048, 128, 8, "int8", "int8", few=True, shares=OUTPUT, activation="silu", following=(2048, 768)
            ),
            quantized_expert_variant(
                768, 2048, 128, 8, "int4", "int8", few=True, activation="silu", y="fp32", **_SIXTEENS
            ),
            quantized_expert_variant(2048, 768, 128, 8, "int4", "int8", few=False, by_pair=True, **_SIXTEENS),
            quantized_expert_variant(
                768, 2048, 128, 8, "int8", "int8", few=False, shares=OUTPUT, activation="silu", y="fp32"
            ),
            quantized_expert_variant(
                2880, 2880, 32, 4, "uint4", "plain", few=False, activation="clamped_swiglu", y="bf16", **_CODES
            ),
            quantized_expert_variant(
                768,
                2048,
                128,
                8,
                "int4",
                "plain",
                few=True,
                activation="silu",
                zero="fp32",
                shares=GROUP,
                group_size=32,
            ),
            quantized_expert_variant(
                768, 2048, 128, 8, "int4", "float8", few=True, activation="silu", y="fp32", **_HUNDREDS
            ),
            quantized_expert_variant(2048, 768, 128, 8, "int4", "float8", few=False, by_pair=True, **_HUNDREDS),
            quantized_expert_variant(
                768, 2048, 128, 8, "float8", "plain", few=True, activation="silu", y="bf16", **_HUNDREDS
            ),
            quantized_expert_variant(
                2048, 768, 128, 8, "float8", "float8", few=False, by_pair=True, shares=OUTPUT, native_float8=True
            ),
        ),
        decode_path=True,
    ),
)
