"""Products of rows with the matrices of the experts that they meet, and what a row's experts make together."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.activation import ACTIVATION_KINDS, activated
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, MANY_FLOAT32_ROWS, sums_of_split
from inflight.build.gpu_kernels.kernels.weight_prefetch import prefetch_expert
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant

# Behind the kinds of activations: that of gpt-oss.
EXPERT_ACTIVATIONS = {**ACTIVATION_KINDS, "clamped_swiglu": 16}
_CLAMPED = tl.constexpr(16)
_LIMIT = tl.constexpr(7.0)
_SLOPE = tl.constexpr(1.702)
_MANY_ROWS = 64


@triton.jit
def expert_linear(
    x,
    weight,
    bias,
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
    gates: tl.constexpr,
    by_pair: tl.constexpr,
    has_bias: tl.constexpr,
    activation: tl.constexpr,
    next_lines: tl.constexpr,
    next_row_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
):
    """Program (expert, tile of its weights): y [rows * top_k, n] for all pairs of the expert.

    x is [rows * top_k, k] when `by_pair`, else [rows, k], of which a pair reads its row. When `gates`, weight
    [experts, 2 n, k] has what multiplies the activated half first, and y = (x up' + bias) * activation(x gate' + bias);
    else weight is [experts, n, k], and y = x weight' + bias. x and weight have one type; bias [experts, 2 n or n] if
    has_bias; y of any float type. order, begins, ends: `sort_pairs`. A row is summed over k in one order,
    whatever rows are beside it. next_weight: as in `sort_pairs`, a part for each tile.
    """
    expert = tl.program_id(0)
    line = tl.program_id(1) * block_n + tl.arange(0, block_n)
    lines: tl.constexpr = 2 * n if gates else n
    matrix = weight + expert.to(tl.int64) * (lines * k)
    biases = bias + expert * lines + line
    shape: tl.constexpr = (n, k, k, block_rows, block_n, block_k)
    inside = line < n
    begin, end = tl.load(begins + expert), tl.load(ends + expert)
    for start in range(begin, end, block_rows):
        place = start + tl.arange(0, block_rows)
        there = place < end
        pair = tl.load(order + place, mask=there, other=0)
        limit = rows * top_k if by_pair else rows
        row = tl.where(there, pair if by_pair else pair // top_k, limit)
        # One cut, all of k.
        sums = sums_of_split(x, matrix, row, line, limit, tl.program_id(2), shape, k)
        if has_bias:
            sums += tl.load(biases, mask=inside, other=0.0).to(tl.float32)[:, None]
        if gates:
            chosen = sums_of_split(x, matrix + n * k, row, line, limit, tl.program_id(2), shape, k)
            if has_bias:
                chosen += tl.load(biases + n, mask=inside, other=0.0).to(tl.float32)[:, None]
            sums = gated(chosen, sums, activation)
        at = pair.to(tl.int64)[None, :] * n + line[:, None]
        tl.store(y + at, sums.to(y.dtype.element_ty), mask=there[None, :] & inside[:, None])
    if next_lines > 0 and begin < end:
        tile, tiles = tl.program_id(1), tl.num_programs(1)
        prefetch_expert(next_weight, expert, tile, tiles, rows * top_k, next_lines, next_row_size)


@triton.jit
def gated(gate, up, activation: tl.constexpr):
    """activation(gate) * up, or what gpt-oss makes of the two."""
    if activation == _CLAMPED:
        gate = tl.minimum(gate, _LIMIT)
        up = tl.minimum(tl.maximum(up, -_LIMIT), _LIMIT)
        return (up + 1.0) * tl.div_rn(gate, 1.0 + tl.exp(gate * -_SLOPE))
    return activated(gate, activation) * up


@triton.jit
def mix_experts(
    x,
    weights,
    residual,
    y,
    width: tl.constexpr,
    top_k: tl.constexpr,
    weighs: tl.constexpr,
    adds: tl.constexpr,
    block: tl.constexpr,
):
    """Program (row, part): y [rows, width] = residual + the sum of weights[row, i] x[row * top_k + i], in order of i.
    Without `weighs` all weights are 1.

    x float32 [rows * top_k, width], weights float32 [rows, top_k]; residual and y float32, which may be one memory;
    without `adds` there is no residual.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    total = tl.zeros([block], tl.float32)
    for choice in range(top_k):
        pair = row * top_k + choice
        found = tl.load(x + pair * width + columns, mask=inside, other=0.0)
        if weighs:
            total = tl.fma(tl.zeros_like(total) + tl.load(weights + pair), found, total)
        else:
            total += found
    if adds:
        total = tl.load(residual + row * width + columns, mask=inside, other=0.0) + total
    tl.store(y + row * width + columns, total, mask=inside)


@triton.jit
def weigh_rows(x, weights, y, width: tl.constexpr, top_k: tl.constexpr, block: tl.constexpr):
    """Program (row, part): y [rows * top_k, width] = x [rows, width] times each of the row's weights, float32
    [rows, top_k]; x and y have one type."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    value = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    for choice in range(top_k):
        pair = row * top_k + choice
        weighted = (value * tl.load(weights + pair)).to(y.dtype.element_ty)
        tl.store(y + pair * width + columns, weighted, mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    wide, few = variant.types["x"] == "fp32", variant.constants["block_rows"] == FEW_ROWS
    blocks: dict[str, Constant] = {"block_n": 32 if wide and not few else 64, "block_k": 64}
    return Tuning(num_warps=4, num_stages=2 if wide else 4 if few else 3, constants=blocks)


def tune_mix(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": 512})


def expert_variant(
    n: int,
    k: int,
    experts: int,
    top_k: int,
    *,
    few: bool,
    activation: str | None = None,
    by_pair: bool = False,
    has_bias: bool = False,
    following: tuple[int, int] = (0, 0),
    x: str = "bf16",
    bias: str = "bf16",
    y: str = "fp32",
) -> Variant:
    """For matrices (n, k), or with an `activation` of EXPERT_ACTIVATIONS (2 n, k). `few`: for at most FEW_ROWS rows.
    `by_pair`: each pair has a row of its own. `following`: see `sorting_variant`."""
    constants: dict[str, Constant] = {"n": n, "k": k, "experts": experts, "top_k": top_k, "has_bias": has_bias}
    constants |= {"gates": activation is not None, "activation": EXPERT_ACTIVATIONS[activation or "silu"]}
    constants |= {"by_pair": by_pair, "next_lines": following[0], "next_row_size": following[1]}
    constants["block_rows"] = FEW_ROWS if few else MANY_FLOAT32_ROWS if x == "fp32" else _MANY_ROWS
    return Variant({"x": x, "bias": bias, "y": y}, constants)


def mix_variant(width: int, top_k: int, *, adds: bool, weighs: bool = True) -> Variant:
    return Variant({}, {"width": width, "top_k": top_k, "weighs": weighs, "adds": adds})


def weighing_variant(width: int, top_k: int, *, x: str = "bf16") -> Variant:
    return Variant({"x": x}, {"width": width, "top_k": top_k})


SPECS = (
    KernelSpec(
        module=__name__,
        function="expert_linear",
        arguments=(
            Argument("x", "*{x}"),
            Argument("weight", "*{x}"),
            Argument("bias", "*{bias}"),
            Argument("order", "*i32"),
            Argument("begins", "*i32"),
            Argument("ends", "*i32"),
            Argument("next_weight", "*{x}"),
            Argument("y", "*{y}"),
            Argument("rows", "i32"),
        ),
        grid=((Extent("experts"),), (Extent("n", "block_n"),)),
        tune=tune,
        variants=(
            expert_variant(768, 2048, 128, 8, few=True, activation="silu", following=(2048, 768), y="bf16"),
            expert_variant(768, 2048, 128, 8, few=False, activation="silu", y="bf16"),
            expert_variant(2048, 768, 128, 8, few=True, by_pair=True),
            expert_variant(2048, 768, 128, 8, few=False, by_pair=True),
            expert_variant(2880, 2880, 32, 4, few=False, activation="clamped_swiglu", has_bias=True, y="bf16"),
            expert_variant(768, 2048, 128, 8, few=False, activation="silu", x="fp32", y="fp32"),
        ),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="mix_experts",
        arguments=(
            Argument("x", "*fp32"),
            Argument("weights", "*fp32"),
            Argument("residual", "*fp32"),
            Argument("y", "*fp32"),
        ),
        grid=((Extent("rows"),), (Extent("width", "block"),)),
        tune=tune_mix,
        variants=(mix_variant(2048, 8, adds=True), mix_variant(5120, 1, adds=True, weighs=False)),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="weigh_rows",
        arguments=(Argument("x", "*{x}"), Argument("weights", "*fp32"), Argument("y", "*{x}")),
        grid=((Extent("rows"),), (Extent("width", "block"),)),
        tune=tune_mix,
        variants=(weighing_variant(5120, 1),),
        decode_path=True,
    ),
)
