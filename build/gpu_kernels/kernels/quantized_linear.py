"""Products of rows with int8, int4, float8 or coded weights, widened in tiles and summed as `split_sums` says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.activation import ACTIVATION_KINDS, activated
from inflight.build.gpu_kernels.kernels.greatest_logits import offer_greatest
from inflight.build.gpu_kernels.kernels.quantized_tiles import (
    GROUP,
    MATRIX,
    OUTPUT,
    ROWS,
    WEIGHTS,
    WIDENED,
    kinds_of,
    quantized_sums,
    scaled_sums,
    steps_of,
)
from inflight.build.gpu_kernels.kernels.split_sums import (
    FEW_ROWS,
    GRID,
    MANY_FLOAT32_ROWS,
    MANY_ROWS,
    SHARED,
    SOME_ROWS,
    gathered,
    publish,
)
from inflight.build.gpu_kernels.kernels.split_sums import tune as tune_sums
from inflight.build.gpu_kernels.kernels.weight_prefetch import awaited, prefetch
from inflight.build.gpu_kernels.spec import Argument, Constant, KernelSpec, Tuning, Variant

# Of `ends`, what becomes of a product.
STORES, ADDS, GATES, CHOOSES = 0, 1, 2, 3
_ADDS = tl.constexpr(1)
_INT4 = tl.constexpr(WEIGHTS["int4"])
_GATES = tl.constexpr(2)
_CHOOSES = tl.constexpr(3)


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
    float8_sums: tl.constexpr,
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
    """Program (tile of rows, tile of weights, its cuts): p = (x weight') x_scale + bias; y = p, residual + p,
    activation(p) * residual, or the place of the row's greatest (`greatest_logits`), as `ends` says.

    x [rows, k]: float32, bfloat16 or float16, or as `rounded` says int8 levels or the bits of float8, with x_scale
    float32 [rows]. weight int8 bytes: [n, k] levels or bits of float8, or [n, ceil(k / 2)] with inputs 2i (low half)
    and 2i + 1 of an output in a byte: levels of int4, or codes of `codebook` float32 [16]. A weight is its level times
    its scale: weight_scale [1], [n] or [n, groups] of any number type, as `shares` says, times unit float32 [n] if
    `has_unit`, of int4 levels whose groups have int8 multiples; plus zero [n, groups] of any float type if `has_zero`.
    bias [n] of any float type; residual and y float32 [rows, n], which may be the same memory, or y int64 [rows].
    partial and arrived are those of `linear`. `block_k`, `float8_sums`: see `quantized_sums`.
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    line = tl.program_id(1) * block_n + tl.arange(0, block_n)
    shape: tl.constexpr = (n, k, split_k, block_rows, block_n, block_k)
    kinds: tl.constexpr = (weights, rounded, shares, group_size, has_unit, has_zero, float8_sums)
    arrays = (x, weight, weight_scale, zero, codebook)
    finished = True
    share: tl.constexpr = 2 if weights >= _INT4 else 1
    first = tl.program_id(2) * cuts * split_k // share
    prefetch(weight, tl.minimum(line, n - 1), first, (k + share - 1) // share, split_k // share)
    awaited()
    sums = quantized_sums(arrays, row, line, rows, tl.program_id(2) * cuts, shape, kinds)
    for split in range(1, cuts):
        sums += quantized_sums(arrays, row, line, rows, split, shape, kinds)
    if cuts < splits:
        finished, places, area = publish(sums, partial, arrived, splits, 1, block_rows, block_n)
        if finished:
            sums = gathered(places, area, splits, block_rows, block_n)
    if finished:
        last = tl.minimum(line, n - 1)
        stored = (row < rows)[None, :] & (line < n)[:, None]
        at = row.to(tl.int64)[None, :] * n + line[:, None]
        sums = scaled_sums(sums, (weight_scale, unit, x_scale), row, line, rows, n, kinds)
        if has_bias:
            sums += tl.load(bias + last).to(tl.float32)[:, None]
        if ends == _ADDS:
            sums = tl.load(residual + at, mask=stored, other=0.0) + sums
        if ends == _GATES:
            sums = activated(sums, activation) * tl.load(residual + at, mask=stored, other=0.0)
        if ends == _CHOOSES:
            offer_greatest(sums, y, row, line, rows, n)
        else:
            tl.store(y + at, sums, mask=stored)


def tune(sm: int, variant: Variant) -> Tuning:
    """The cuts of `split_sums`, with steps that divide a group."""
    steps = steps_of(sm, variant)
    types = {"x": "fp32" if variant.types["x"] == "fp32" else "bf16"}
    plain = tune_sums(sm, Variant(types, variant.constants), step=int(steps["block_k"]))
    constants: dict[str, Constant] = {**plain.constants, **steps}
    # Sums of a group or of a step, or multiples, lie in registers beside the sums of its cut and those of all; and so
    # do weights that are widened to 16 bits, where products do not read shared memory.
    in_registers = sm not in (90, 100) and (
        variant.constants["rounded"] == ROWS["plain"] or steps["float8_sums"] != WIDENED
    )
    if variant.constants["shares"] == GROUP or in_registers:
        constants["block_n"] = min(int(plain.constants["block_n"]), 64)
    return replace(plain, constants=constants)


def quantized_variant(
    n: int,
    k: int,
    weights: str,
    rounded: str,
    *,
    tile: int,
    shares: int,
    group_size: int = 0,
    has_unit: bool = False,
    zero: str | None = None,
    bias: str | None = None,
    ends: int = STORES,
    activation: str = "silu",
    x: str = "bf16",
    weight_scale: str = "fp32",
    native_float8: bool = False,
) -> Variant:
    """For weights (n, k) and rows of kinds that `kinds_of` knows, which are of type `x` where they are plain.
    `zero` and `bias`: their types, None where there are none. `tile`: the rows of a tile (`row_tiles`)."""
    constants: dict[str, Constant] = {
        "n": n,
        "k": k,
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
        "ends": ends,
        "activation": ACTIVATION_KINDS[activation],
        "block_rows": tile,
    }
    types = {"x": x if rounded == "plain" else "i8", "weight_scale": weight_scale}
    return Variant({**types, "zero": zero or "fp32", "bias": bias or "fp32", "y": "fp32"}, constants)


def choosing(variant: Variant) -> Variant:
    """The same product, of which the greatest of each row is kept."""
    return Variant({**variant.types, "y": "i64"}, {**variant.constants, "ends": CHOOSES})


_SIXTEENS: dict[str, Any] = {"shares": GROUP, "group_size": 16, "has_unit": True}
_NATIVE: dict[str, Any] = {"native_float8": True}
_HUNDREDS: dict[str, Any] = {"shares": GROUP, "group_size": 128, **_NATIVE}
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
            Argument("y", "*{y}"),
            *SHARED,
        ),
        grid=GRID,
        tune=tune,
        variants=(
            quantized_variant(4096, 4096, "int8", "plain", tile=FEW_ROWS, shares=OUTPUT, ends=ADDS),
            quantized_variant(4096, 4096, "int8", "plain", tile=MANY_ROWS, shares=OUTPUT, ends=ADDS),
            quantized_variant(6144, 4096, "int8", "int8", tile=FEW_ROWS, shares=OUTPUT, bias="bf16"),
            quantized_variant(6144, 4096, "int8", "int8", tile=MANY_ROWS, shares=OUTPUT, bias="bf16"),
            quantized_variant(4096, 4096, "float8", "float8", tile=FEW_ROWS, shares=MATRIX, **_NATIVE),
            quantized_variant(4096, 4096, "float8", "float8", tile=MANY_ROWS, shares=OUTPUT, **_NATIVE),
            quantized_variant(14336, 4096, "int4", "plain", tile=FEW_ROWS, shares=GROUP, group_size=128, ends=GATES),
            quantized_variant(14336, 4096, "int4", "plain", tile=MANY_ROWS, shares=GROUP, group_size=32, zero="fp32"),
            quantized_variant(4096, 4096, "int4", "int8", tile=FEW_ROWS, weight_scale="i8", **_SIXTEENS),
            quantized_variant(4096, 4096, "int4", "int8", tile=MANY_ROWS, weight_scale="i8", **_SIXTEENS),
            quantized_variant(4096, 4096, "int4", "plain", tile=FEW_ROWS, weight_scale="i8", **_SIXTEENS),
            quantized_variant(4096, 4096, "int8", "int8", tile=FEW_ROWS, shares=GROUP, group_size=16),
            quantized_variant(4096, 4096, "uint4", "plain", tile=FEW_ROWS, shares=GROUP, group_size=16),
            quantized_variant(4096, 4096, "uint4", "plain", tile=FEW_ROWS, shares=GROUP, group_size=64),
            quantized_variant(4096, 4096, "uint4", "plain", tile=MANY_ROWS, shares=GROUP, group_size=64),
            quantized_variant(4096, 4096, "int4", "plain", tile=MANY_ROWS, weight_scale="i8", **_SIXTEENS),
            quantized_variant(4096, 4096, "int8", "int8", tile=MANY_ROWS, shares=GROUP, group_size=16),
            quantized_variant(4096, 4096, "float8", "float8", tile=MANY_ROWS, **_HUNDREDS),
            quantized_variant(4096, 4096, "int4", "float8", tile=MANY_ROWS, **_HUNDREDS),
            quantized_variant(4096, 4096, "int8", "plain", tile=SOME_ROWS, shares=OUTPUT, ends=ADDS),
            quantized_variant(6144, 4096, "int8", "int8", tile=SOME_ROWS, shares=OUTPUT, bias="bf16"),
            quantized_variant(4096, 4096, "float8", "float8", tile=SOME_ROWS, shares=OUTPUT, **_NATIVE),
            quantized_variant(4096, 14300, "float8", "float8", tile=SOME_ROWS, shares=OUTPUT, ends=GATES, **_NATIVE),
            quantized_variant(4096, 4096, "int4", "float8", tile=FEW_ROWS, zero="fp32", **_HUNDREDS),
            quantized_variant(4096, 4096, "float8", "float8", tile=FEW_ROWS, shares=MATRIX),
            quantized_variant(4096, 4096, "float8", "float8", tile=SOME_ROWS, shares=OUTPUT),
            quantized_variant(4096, 4096, "float8", "float8", tile=MANY_ROWS, shares=OUTPUT, bias="bf16"),
            quantized_variant(
                14336, 4096, "int4", "plain", tile=SOME_ROWS, shares=GROUP, group_size=32, zero="fp32", ends=GATES
            ),
            quantized_variant(4096, 4096, "int4", "int8", tile=SOME_ROWS, weight_scale="i8", **_SIXTEENS),
            quantized_variant(1152, 900, "int4", "plain", tile=MANY_ROWS, shares=GROUP, group_size=96, x="fp16"),
            quantized_variant(1152, 900, "int8", "plain", tile=MANY_FLOAT32_ROWS, shares=OUTPUT, x="fp32", bias="fp32"),
            choosing(quantized_variant(128256, 4096, "int8", "plain", tile=FEW_ROWS, shares=OUTPUT)),
            choosing(quantized_variant(128256, 4096, "int8", "plain", tile=MANY_ROWS, shares=OUTPUT)),
            choosing(quantized_variant(128256, 4096, "int8", "int8", tile=SOME_ROWS, shares=OUTPUT)),
            choosing(quantized_variant(128256, 4096, "int8", "int8", tile=MANY_ROWS, shares=OUTPUT)),
            choosing(quantized_variant(128256, 4096, "float8", "float8", tile=FEW_ROWS, shares=OUTPUT, **_NATIVE)),
            choosing(quantized_variant(128256, 4096, "float8", "float8", tile=MANY_ROWS, shares=OUTPUT, **_NATIVE)),
            choosing(quantized_variant(128256, 4096, "int4", "int8", tile=FEW_ROWS, weight_scale="i8", **_SIXTEENS)),
            choosing(quantized_variant(128256, 4096, "int4", "int8", tile=MANY_ROWS, weight_scale="i8", **_SIXTEENS)),
        ),
        decode_path=True,
    ),
)
