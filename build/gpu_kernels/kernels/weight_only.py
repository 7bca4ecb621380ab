"""Products of a few rows with int8, int4 or float8 weights, widened in registers: the weights are read once.

The weights are the left operand of the tensor cores' product, so a tile of 16 rows costs what one row costs. The inner
dimension is divided among `splits` programs, a number fixed by the weights' shape; the one that ends last adds their
sums in order, so a row's result depends on no other row, on their number, or on who was last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.rounding import from_float8
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant

# Of the largest card of each generation.
PROCESSORS = {80: 108, 86: 84, 89: 142, 90: 132, 100: 148, 120: 188}
_BLOCKS_PER_PROCESSOR = 4
_LEAST_STEPS = 4


@triton.jit
def weight_only(
    x,
    weight,
    weight_scale,
    bias,
    y,
    partial,
    arrived,
    rows,
    n: tl.constexpr,
    k: tl.constexpr,
    bits: tl.constexpr,
    float8: tl.constexpr,
    group_size: tl.constexpr,
    has_bias: tl.constexpr,
    splits: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
):
    """Program (tile of weights, split, tile of rows): y = x (weight * scale)' + bias.

    x [rows, k] bfloat16 or float16; y [rows, n] float32, bfloat16 or float16; bias float32 [n] if `has_bias`.
    weight int8: [n, k] levels, or the bits of float8; with 4 `bits` [ceil(n / 2), k], where a byte holds the two's
    complement levels of outputs 2i (low half) and 2i + 1. weight_scale [n], or with 4 bits [ceil(k / group_size), n];
    any float type. partial float32 [row tiles, weight tiles, splits, sums of a tile] and arrived int32 [row tiles *
    weight tiles] are used when `splits` > 1; `arrived` is zero before the first launch and after every launch.
    `block_k`, a power of two, divides group_size.
    """
    pairs: tl.constexpr = bits == 4
    lines: tl.constexpr = (n + 1) // 2 if pairs else n
    steps: tl.constexpr = (k + block_k - 1) // block_k
    steps_of_split: tl.constexpr = (steps + splits - 1) // splits
    row = tl.program_id(2) * block_rows + tl.arange(0, block_rows)
    line = tl.program_id(0) * block_n + tl.arange(0, block_n)
    # Lines past the end read the last one, rows past the end read zeros; neither is stored.
    weights = weight + tl.minimum(line, lines - 1).to(tl.int64)[:, None] * k
    inputs = x + row.to(tl.int64)[None, :] * k
    output = tl.minimum(2 * line if pairs else line, n - 1)
    odd_output = tl.minimum(2 * line + 1, n - 1)
    sums = tl.zeros((block_n, block_rows), tl.float32)
    odd_sums = tl.zeros((block_n, block_rows), tl.float32)
    first = tl.program_id(1) * steps_of_split
    for step in range(first, tl.minimum(first + steps_of_split, steps)):
        at = step * block_k + tl.arange(0, block_k)
        if k % block_k == 0:
            levels = tl.load(weights + at[None, :])
            value = tl.load(inputs + at[:, None], mask=(row < rows)[None, :], other=0.0)
        else:
            levels = tl.load(weights + at[None, :], mask=(at < k)[None, :], other=0)
            value = tl.load(inputs + at[:, None], mask=(row < rows)[None, :] & (at < k)[:, None], other=0.0)
        if pairs:
            scales = weight_scale + step * block_k // group_size * n
            scale = tl.load(scales + output).to(tl.float32)
            odd_scale = tl.load(scales + odd_output).to(tl.float32)
            even_level = ((levels & 15) ^ 8).to(value.dtype) - 8.0
            # The upper half of a byte alone is 16 times its level: both factors of 16 are exact.
            odd_level = (levels & -16).to(value.dtype)
            sums = tl.fma(tl.dot(even_level, value), scale[:, None], sums)
            odd_sums = tl.fma(tl.dot(odd_level, value), odd_scale[:, None] * 0.0625, odd_sums)
        elif float8:
            sums = tl.dot(from_float8(levels, value.dtype), value, sums)
        else:
            sums = tl.dot(levels.to(value.dtype), value, sums)
    finished = True
    if splits > 1:
        tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        parts: tl.constexpr = 2 if pairs else 1
        area: tl.constexpr = block_n * block_rows
        place = tl.arange(0, block_n)[:, None] * block_rows + tl.arange(0, block_rows)[None, :]
        places = partial + tile.to(tl.int64) * (splits * parts * area) + place
        mine = places + tl.program_id(1) * (parts * area)
        tl.store(mine, sums)
        if pairs:
            tl.store(mine + area, odd_sums)
        tl.debug_barrier()
        finished = tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu") == splits - 1
        if finished:
            sums = tl.zeros((block_n, block_rows), tl.float32)
            odd_sums = tl.zeros((block_n, block_rows), tl.float32)
            for split in range(splits):
                sums += tl.load(places + split * (parts * area), cache_modifier=".cg")
                if pairs:
                    odd_sums += tl.load(places + split * (parts * area) + area, cache_modifier=".cg")
            tl.store(arrived + tile, 0)
    if finished:
        stored = (row < rows)[None, :] & (line < lines)[:, None]
        target = y + row.to(tl.int64)[None, :] * n
        if not pairs:
            sums *= tl.load(weight_scale + output).to(tl.float32)[:, None]
        if has_bias:
            sums += tl.load(bias + output)[:, None]
        tl.store(target + output[:, None], sums.to(y.dtype.element_ty), mask=stored)
        if pairs:
            if has_bias:
                odd_sums += tl.load(bias + odd_output)[:, None]
            has_odd = (2 * line + 1 < n)[:, None]
            tl.store(target + odd_output[:, None], odd_sums.to(y.dtype.element_ty), mask=stored & has_odd)


def tune(sm: int, variant: Variant) -> Tuning:
    """Enough programs for every processor to have several, each with at least `_LEAST_STEPS` steps.

    Two warps: with four, Hopper's own product would be chosen, whose register operand is slower to widen.
    """
    constants = variant.constants
    n, k = int(constants["n"]), int(constants["k"])
    group_size = int(constants["group_size"]) or 128
    block_k = min(128, group_size & -group_size)
    pairs = constants["bits"] == 4
    block_n = 32 if pairs and constants["block_rows"] > 16 else 64
    lines = -(-n // 2) if pairs else n
    wanted = _BLOCKS_PER_PROCESSOR * PROCESSORS[sm] // -(-lines // block_n)
    splits = max(1, min(wanted, -(-k // block_k) // _LEAST_STEPS))
    # By default ptxas uses 96 registers there, and spills.
    most = 128 if sm in (86, 89) and not pairs and constants["block_rows"] == 16 else None
    blocks: dict[str, Constant] = {"splits": splits, "block_n": block_n, "block_k": block_k}
    return Tuning(num_warps=2, num_stages=4, constants=blocks, max_registers=most)


def product_variant(
    n: int,
    k: int,
    weights: str,
    *,
    group_size: int = 0,
    has_bias: bool = False,
    x: str = "bf16",
    y: str = "fp32",
    weight_scale: str = "fp32",
    block_rows: int = 16,
) -> Variant:
    """The variant for `weights` of shape (n, k): "int8", "float8", or "int4" with a `group_size` that 32 divides."""
    constants: dict[str, Constant] = {
        "n": n,
        "k": k,
        "bits": 4 if weights == "int4" else 8,
        "float8": weights == "float8",
        "group_size": group_size,
        "has_bias": has_bias,
        "block_rows": block_rows,
    }
    return Variant({"x": x, "y": y, "weight_scale": weight_scale}, constants)


def workspace(variant: Variant, tuning: Tuning, rows: int) -> tuple[int, int]:
    """How many float32 `partial` and int32 `arrived` hold for up to `rows` rows; at least one each."""
    constants = {**variant.constants, **tuning.constants}
    pairs = constants["bits"] == 4
    lines = -(-int(constants["n"]) // 2) if pairs else int(constants["n"])
    tiles = -(-lines // int(constants["block_n"])) * -(-rows // int(constants["block_rows"]))
    sums = int(constants["block_n"]) * int(constants["block_rows"]) * (2 if pairs else 1)
    splits = int(constants["splits"])
    return (tiles * splits * sums, tiles) if splits > 1 else (1, 1)


SPECS = (
    KernelSpec(
        module=__name__,
        function="weight_only",
        arguments=(
            Argument("x", "*{x}"),
            Argument("weight", "*i8"),
            Argument("weight_scale", "*{weight_scale}"),
            Argument("bias", "*fp32"),
            Argument("y", "*{y}"),
            Argument("partial", "*fp32"),
            Argument("arrived", "*i32"),
            Argument("rows", "i32"),
        ),
        grid=((Extent("lines", "block_n"),), (Extent("splits"),), (Extent("rows", "block_rows"),)),
        tune=tune,
        variants=(
            product_variant(4096, 4096, "int8"),
            product_variant(28672, 4096, "int8", y="bf16"),
            product_variant(4096, 14336, "int4", group_size=128),
            product_variant(28672, 4096, "int4", group_size=128, weight_scale="bf16"),
            product_variant(6144, 4096, "float8"),
            product_variant(1152, 896, "int4", group_size=32, has_bias=True),
            product_variant(1152, 896, "int8", has_bias=True, x="fp16"),
            product_variant(4096, 4096, "int8", block_rows=32),
            product_variant(4096, 4096, "int4", group_size=128, block_rows=32),
        ),
        decode_path=True,
    ),
)
