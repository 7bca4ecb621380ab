"""Products of rows with weights of 16 or 32 bits, summed as `split_sums` says; a bias and the residual may be added."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.greatest_logits import offer_greatest
from inflight.build.gpu_kernels.kernels.split_sums import (
    FEW_ROWS,
    GRID,
    MANY_FLOAT32_ROWS,
    MANY_ROWS,
    SHARED,
    SOME_ROWS,
    gathered,
    publish,
    sums_of_split,
    tune,
)
from inflight.build.gpu_kernels.kernels.weight_prefetch import awaited, prefetch
from inflight.build.gpu_kernels.spec import Argument, KernelSpec, Variant


@triton.jit
def linear(
    x,
    weight,
    bias,
    residual,
    y,
    partial,
    arrived,
    rows,
    n: tl.constexpr,
    k: tl.constexpr,
    has_bias: tl.constexpr,
    adds: tl.constexpr,
    chooses: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    split_k: tl.constexpr,
    splits: tl.constexpr,
    cuts: tl.constexpr,
):
    """Program (tile of rows, tile of weights, its cuts): y = residual + (x weight' + bias).

    x [rows, k] and weight [n, k] of one type: bfloat16, float16 or float32. bias [n] if `has_bias`, residual float32
    [rows, n] if `adds`; y [rows, n] of any float type, which may be the residual's memory, or if `chooses` the int64
    [rows] of `greatest_logits`. partial float32 [row tiles,
    weight tiles, splits, block_n, block_rows] and arrived int32 [row tiles * weight tiles] are used when a program has
    one of several cuts; `arrived` is zero before the first launch and after every launch. split_k is a multiple of
    block_k, splits * split_k at least k, and `cuts` 1 or `splits`.
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    line = tl.program_id(1) * block_n + tl.arange(0, block_n)
    shape: tl.constexpr = (n, k, split_k, block_rows, block_n, block_k)
    finished = True
    prefetch(weight, tl.minimum(line, n - 1), tl.program_id(2) * cuts * split_k, k, split_k)
    awaited()
    sums = sums_of_split(x, weight, row, line, rows, tl.program_id(2) * cuts, shape, k)
    for split in range(1, cuts):
        sums += sums_of_split(x, weight, row, line, rows, split, shape, k)
    if cuts < splits:
        finished, places, area = publish(sums, partial, arrived, splits, 1, block_rows, block_n)
        if finished:
            sums = gathered(places, area, splits, block_rows, block_n)
    if finished:
        stored = (row < rows)[None, :] & (line < n)[:, None]
        at = row.to(tl.int64)[None, :] * n + line[:, None]
        if has_bias:
            sums += tl.load(bias + line, mask=line < n, other=0.0).to(tl.float32)[:, None]
        if adds:
            sums = tl.load(residual + at, mask=stored, other=0.0) + sums
        if chooses:
            offer_greatest(sums, y, row, line, rows, n)
        else:
            tl.store(y + at, sums.to(y.dtype.element_ty), mask=stored)


def linear_variant(
    n: int,
    k: int,
    *,
    tile: int,
    has_bias: bool = False,
    adds: bool = False,
    x: str = "bf16",
    bias: str = "bf16",
    y: str = "fp32",
) -> Variant:
    """For weights (n, k), and tiles of so many rows (`row_tiles`)."""
    constants = {"n": n, "k": k, "has_bias": has_bias, "adds": adds, "chooses": False, "block_rows": tile}
    return Variant({"x": x, "bias": bias, "y": y}, constants)


def choosing(variant: Variant) -> Variant:
    """The same product, of which the greatest of each row is kept."""
    return Variant({**variant.types, "y": "i64"}, {**variant.constants, "chooses": True})


SPECS = (
    KernelSpec(
        module=__name__,
        function="linear",
        arguments=(
            Argument("x", "*{x}"),
            Argument("weight", "*{x}"),
            Argument("bias", "*{bias}"),
            Argument("residual", "*fp32"),
            Argument("y", "*{y}"),
            *SHARED,
        ),
        grid=GRID,
        tune=tune,
        variants=(
            linear_variant(4096, 4096, tile=FEW_ROWS, adds=True),
            linear_variant(4096, 14336, tile=MANY_ROWS, adds=True),
            linear_variant(6144, 4096, tile=FEW_ROWS, y="bf16"),
            linear_variant(1152, 896, tile=FEW_ROWS, has_bias=True),
            linear_variant(1152, 896, tile=MANY_ROWS, has_bias=True),
            linear_variant(151936, 896, tile=FEW_ROWS),
            choosing(linear_variant(151936, 896, tile=FEW_ROWS)),
            choosing(linear_variant(128256, 4096, tile=SOME_ROWS)),
            choosing(linear_variant(128256, 4096, tile=MANY_ROWS)),
            choosing(linear_variant(128256, 4096, tile=MANY_FLOAT32_ROWS, x="fp32", bias="fp32")),
            linear_variant(1152, 900, tile=FEW_ROWS, x="fp32", bias="fp32"),
            linear_variant(1152, 900, tile=MANY_FLOAT32_ROWS, x="fp32", bias="fp32"),
            linear_variant(4096, 4096, tile=SOME_ROWS, adds=True),
        ),
        decode_path=True,
    ),
)
