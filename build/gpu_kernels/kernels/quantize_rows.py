"""Rows for products with quantized weights: reordered, times factors, rounded to integers, to float8, or plain."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.rounding import round_to_integer, row_scale, to_float8
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant

_GREATEST = tl.constexpr(448.0)
_LEAST = tl.constexpr(7.888609052210118e-31)  # 2^-100
_LEVELS = tl.constexpr(127.0)
# Types of rows that have scales.
LEVELS = ("int8", "float8")


@triton.jit
def quantize_rows(
    x,
    order,
    factors,
    stored,
    low,
    high,
    y,
    y_scale,
    width: tl.constexpr,
    orders: tl.constexpr,
    multiplies: tl.constexpr,
    quantizes: tl.constexpr,
    float8: tl.constexpr,
    has_stored: tl.constexpr,
    cuts: tl.constexpr,
    times: tl.constexpr,
    block: tl.constexpr,
):
    """One program per row: y = x[order] * factors, rounded as QuantizeRows of docs/formats/operators.md says.

    x [rows, width] and factors [width] of any float type, order int32 [width]. y [rows, width]: with `quantizes` int8
    (levels, or the bits of float8) with y_scale float32 [rows], else of any float type, without scales. The scale is
    `stored` float32 [1] for all rows if `has_stored`, else each row's own, with `cuts` that of x between `low` and
    `high`, float32 [1]. There are `times` rows for each row of the launch. `block` is a power of two of at least
    `width`.
    """
    row = tl.program_id(0).to(tl.int64)
    given = (order, factors, stored, low, high)
    kinds: tl.constexpr = (orders, multiplies, quantizes, float8, has_stored, cuts)
    value = tl.load(x + row * width + sources(order, orders, width, block), mask=tl.arange(0, block) < width, other=0.0)
    rounded(value, given, y + row * width, y_scale + row, kinds, width, block)


@triton.jit
def quantize_tiles(
    x,
    order,
    factors,
    stored,
    low,
    high,
    tile_begins,
    tile_ends,
    y,
    y_scale,
    width: tl.constexpr,
    orders: tl.constexpr,
    multiplies: tl.constexpr,
    float8: tl.constexpr,
    has_stored: tl.constexpr,
    cuts: tl.constexpr,
    block: tl.constexpr,
    parts: tl.constexpr,
):
    """Program (tile, part): what `quantize_rows` makes of the rows of a tile of prompts; part i of `parts` has row i,
    i + parts and so on of it.

    tile_begins, tile_ends int32 [tiles]: the rows of each tile.
    """
    given = (order, factors, stored, low, high)
    kinds: tl.constexpr = (orders, multiplies, True, float8, has_stored, cuts)
    columns = sources(order, orders, width, block)
    inside = tl.arange(0, block) < width
    for row in range(
        tl.load(tile_begins + tl.program_id(0)) + tl.program_id(1), tl.load(tile_ends + tl.program_id(0)), parts
    ):
        at = tl.full([], 0, tl.int64) + row
        value = tl.load(x + at * width + columns, mask=inside, other=0.0)
        rounded(value, given, y + at * width, y_scale + at, kinds, width, block)


@triton.jit
def sources(order, orders: tl.constexpr, width: tl.constexpr, block: tl.constexpr):
    """Which element of a row comes to each place."""
    columns = tl.arange(0, block)
    return tl.load(order + columns, mask=columns < width, other=0) if orders else columns


@triton.jit
def rounded(value, given, y, y_scale, kinds: tl.constexpr, width: tl.constexpr, block: tl.constexpr):
    """Write a row of any float type [block] that is in its new order, to `y` and its scale to `y_scale`, as
    `quantize_rows` says. given = (order, factors, stored, low, high); kinds = (orders, multiplies, quantizes, float8,
    has_stored, cuts)."""
    _, factors, stored, low, high = given
    columns = tl.arange(0, block)
    inside = columns < width
    value = value.to(tl.float32)
    if kinds[1]:
        value = value * tl.load(factors + columns, mask=inside, other=0.0).to(tl.float32)
    if kinds[2]:
        if kinds[5]:
            value = tl.minimum(tl.maximum(value, tl.load(low)), tl.load(high))
        if kinds[4]:
            scale = tl.load(stored)
            if kinds[3]:
                level = to_float8(tl.clamp(tl.div_rn(value, scale), -_GREATEST, _GREATEST))
            else:
                # Far outside a float32 no longer tells halves: it is cut first.
                near = tl.clamp(tl.div_rn(value, scale), -1024.0, 1024.0)
                level = tl.clamp(round_to_integer(near), -_LEVELS - 1.0, _LEVELS).to(tl.int8)
        elif kinds[3]:
            scale = tl.div_rn(tl.maximum(tl.max(tl.abs(value), axis=0), _LEAST), _GREATEST)
            level = to_float8(tl.clamp(tl.div_rn(value, scale), -_GREATEST, _GREATEST))
        else:
            scale, inverse = row_scale(tl.max(tl.abs(value), axis=0), False)
            level = tl.clamp(round_to_integer(value * inverse), -_LEVELS, _LEVELS).to(tl.int8)
        tl.store(y_scale, scale)
        tl.store(y + columns, level, mask=inside)
    else:
        tl.store(y + columns, value.to(y.dtype.element_ty), mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    """The whole row is in registers between its maximum and its result."""
    block = triton.next_power_of_2(int(variant.constants["width"]))
    return Tuning(num_warps=min(16, max(1, block // 512)), constants={"block": block})


def quantize_variant(
    width: int,
    y: str,
    *,
    orders: bool = False,
    factors: str | None = None,
    has_stored: bool = False,
    cuts: bool = False,
    times: int = 1,
    x: str = "fp32",
) -> Variant:
    """`y` is "int8" or "float8", or a type that is no level; `factors` is the type of theirs, or None."""
    quantizes = y in LEVELS
    constants: dict[str, Constant] = {
        "width": width,
        "orders": orders,
        "multiplies": factors is not None,
        "quantizes": quantizes,
        "float8": y == "float8",
        "has_stored": has_stored,
        "cuts": cuts,
        "times": times,
    }
    return Variant({"x": x, "factors": factors or "fp32", "y": "i8" if quantizes else y}, constants)


def tune_tiles(sm: int, variant: Variant) -> Tuning:
    """As `tune`; a tile has rows for a few programs."""
    tuning = tune(sm, variant)
    return replace(tuning, constants={**tuning.constants, "parts": 16})


def tiles_variant(rows: Variant) -> Variant:
    """`quantize_tiles` in place of a variant of `quantize_rows` whose results are levels."""
    left_out = ("quantizes", "times")
    constants = {name: value for name, value in rows.constants.items() if name not in left_out}
    return Variant(rows.types, constants)


SCALES = tuple(Argument(name, "*fp32") for name in ("stored", "low", "high"))
ROUNDING = (Argument("order", "*i32"), Argument("factors", "*{factors}"), *SCALES)
_RESULTS = (Argument("y", "*{y}"), Argument("y_scale", "*fp32"))
SPECS = (
    KernelSpec(
        module=__name__,
        function="quantize_rows",
        arguments=(Argument("x", "*{x}"), *ROUNDING, *_RESULTS),
        grid=((Extent("rows"), Extent("times")),),
        tune=tune,
        variants=(
            quantize_variant(4096, "int8"),
            quantize_variant(14336, "float8"),
            quantize_variant(4096, "float8", has_stored=True, factors="bf16"),
            quantize_variant(4096, "int8", has_stored=True),
            quantize_variant(896, "float8", cuts=True),
            quantize_variant(4096, "bf16", orders=True, factors="fp32"),
        ),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="quantize_tiles",
        arguments=(
            Argument("x", "*{x}"),
            *ROUNDING,
            Argument("tile_begins", "*i32"),
            Argument("tile_ends", "*i32"),
            *_RESULTS,
        ),
        grid=((Extent("tiles"),), (Extent("parts"),)),
        tune=tune_tiles,
        variants=(
            tiles_variant(quantize_variant(4096, "int8", x="bf16")),
            tiles_variant(quantize_variant(4096, "float8", has_stored=True, factors="bf16", x="bf16")),
        ),
    ),
)
