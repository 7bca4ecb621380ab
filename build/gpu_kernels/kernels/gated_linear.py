"""The gated half of an MLP (Shazeer, 2020) in one launch: two products, summed as `split_sums` says, and activation."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.activation import ACTIVATION_KINDS, activated
from inflight.build.gpu_kernels.kernels.split_sums import (
    FEW_ROWS,
    GRID,
    MANY_FLOAT32_ROWS,
    MANY_ROWS,
    SHARED,
    SOME_ROWS,
    gathered,
    places_of_tile,
    publish,
    sums_of_split,
)
from inflight.build.gpu_kernels.kernels.split_sums import tune as tune_sums
from inflight.build.gpu_kernels.kernels.weight_prefetch import awaited, prefetch
from inflight.build.gpu_kernels.spec import Argument, KernelSpec, Tuning, Variant


@triton.jit
def gated_linear(
    x,
    gate,
    up,
    gate_bias,
    up_bias,
    y,
    partial,
    arrived,
    rows,
    n: tl.constexpr,
    k: tl.constexpr,
    has_bias: tl.constexpr,
    activation: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    split_k: tl.constexpr,
    splits: tl.constexpr,
    cuts: tl.constexpr,
):
    """Program (tile of rows, tile of weights, its cuts): y = activation(x gate' + gate_bias) * (x up' + up_bias).

    gate and up [n, k] as `weight` of `linear`, the biases [n]; `partial` is twice as large. `activation` is one of
    ACTIVATION_KINDS.
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    line = tl.program_id(1) * block_n + tl.arange(0, block_n)
    shape: tl.constexpr = (n, k, split_k, block_rows, block_n, block_k)
    finished = True
    prefetch(gate, tl.minimum(line, n - 1), tl.program_id(2) * cuts * split_k, k, split_k)
    prefetch(up, tl.minimum(line, n - 1), tl.program_id(2) * cuts * split_k, k, split_k)
    awaited()
    gates = sums_of_split(x, gate, row, line, rows, tl.program_id(2) * cuts, shape, k)
    ups = sums_of_split(x, up, row, line, rows, tl.program_id(2) * cuts, shape, k)
    for split in range(1, cuts):
        gates += sums_of_split(x, gate, row, line, rows, split, shape, k)
        ups += sums_of_split(x, up, row, line, rows, split, shape, k)
    if cuts < splits:
        tile: tl.constexpr = block_n * block_rows
        places = places_of_tile(partial, splits, 2, block_rows, block_n) + tl.program_id(2) * (2 * tile)
        tl.store(places + tile, ups)
        finished, places, area = publish(gates, partial, arrived, splits, 2, block_rows, block_n)
        if finished:
            gates = gathered(places, area, splits, block_rows, block_n)
            ups = gathered(places + tile, area, splits, block_rows, block_n)
    if finished:
        inside = line < n
        if has_bias:
            gates += tl.load(gate_bias + line, mask=inside, other=0.0).to(tl.float32)[:, None]
            ups += tl.load(up_bias + line, mask=inside, other=0.0).to(tl.float32)[:, None]
        result = activated(gates, activation) * ups
        at = row.to(tl.int64)[None, :] * n + line[:, None]
        tl.store(y + at, result.to(y.dtype.element_ty), mask=(row < rows)[None, :] & inside[:, None])


def tune(sm: int, variant: Variant) -> Tuning:
    """That of one product, with half of its lines in a tile of many rows: the sums of both lie in registers."""
    tuning = tune_sums(sm, variant)
    block_n = min(int(tuning.constants["block_n"]), 64)
    tuning = replace(tuning, constants={**tuning.constants, "block_n": block_n})
    return replace(tuning, num_warps=8) if variant.constants["block_rows"] == MANY_FLOAT32_ROWS else tuning


def gated_variant(
    n: int,
    k: int,
    activation: str,
    *,
    tile: int,
    has_bias: bool = False,
    x: str = "bf16",
    bias: str = "bf16",
    y: str = "bf16",
) -> Variant:
    """For a gate and an up matrix (n, k) each, an activation by its name, and tiles of so many rows (`row_tiles`)."""
    kind = ACTIVATION_KINDS[activation]
    constants = {"n": n, "k": k, "has_bias": has_bias, "activation": kind, "block_rows": tile}
    return Variant({"x": x, "bias": bias, "y": y}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="gated_linear",
        arguments=(
            Argument("x", "*{x}"),
            Argument("gate", "*{x}"),
            Argument("up", "*{x}"),
            Argument("gate_bias", "*{bias}"),
            Argument("up_bias", "*{bias}"),
            Argument("y", "*{y}"),
            *SHARED,
        ),
        grid=GRID,
        tune=tune,
        variants=(
            gated_variant(14336, 4096, "silu", tile=FEW_ROWS),
            gated_variant(14336, 4096, "silu", tile=MANY_ROWS),
            gated_variant(4864, 896, "gelu_tanh", tile=FEW_ROWS, has_bias=True),
            gated_variant(4864, 896, "silu", tile=MANY_FLOAT32_ROWS, x="fp32", bias="fp32", y="fp32"),
            gated_variant(14336, 4096, "silu", tile=SOME_ROWS),
        ),
        decode_path=True,
    ),
)
