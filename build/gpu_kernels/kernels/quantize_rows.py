"""Rows for products with quantized weights: reordered, times factors, rounded to integers, to float8, or plain."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.rounding import round_to_integer, row_scale, to_float8
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant

_GREATEST = tl.constexpr(448.0)
_LEAST = tl.constexpr(7.888609052210118e-31)  # 2^-100
_LEVELS = tl.constexpr(127.0)


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
    columns = tl.arange(0, block)
    inside = columns < width
    source = tl.load(order + columns, mask=inside, other=0) if orders else columns
    value = tl.load(x + row * width + source, mask=inside, other=0.0).to(tl.float32)
    if multiplies:
        value = value * tl.load(factors + columns, mask=inside, other=0.0).to(tl.float32)
    target = y + row * width + columns
    if quantizes:
        if cuts:
            value = tl.minimum(tl.maximum(value, tl.load(low)), tl.load(high))
        if has_stored:
            scale = tl.load(stored)
            if float8:
                level = to_float8(tl.clamp(tl.div_rn(value, scale), -_GREATEST, _GREATEST))
            else:
                # Far outside a float32 no longer tells halves: it is cut first.
                near = tl.clamp(tl.div_rn(value, scale), -1024.0, 1024.0)
                level = tl.clamp(round_to_integer(near), -_LEVELS - 1.0, _LEVELS).to(tl.int8)
        elif float8:
            scale = tl.div_rn(tl.maximum(tl.max(tl.abs(value), axis=0), _LEAST), _GREATEST)
            level = to_float8(tl.clamp(tl.div_rn(value, scale), -_GREATEST, _GREATEST))
        else:
            scale, inverse = row_scale(tl.max(tl.abs(value), axis=0), False)
            level = tl.clamp(round_to_integer(value * inverse), -_LEVELS, _LEVELS).to(tl.int8)
        tl.store(y_scale + row, scale)
        tl.store(target, level, mask=inside)
    else:
        tl.store(target, value.to(y.dtype.element_ty), mask=inside)


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
    quantizes = y in ("int8", "float8")
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


SPECS = (
    KernelSpec(
        module=__name__,
        function="quantize_rows",
        arguments=(
            Argument("x", "*{x}"),
            Argument("order", "*i32"),
            Argument("factors", "*{factors}"),
            *(Argument(name, "*fp32") for name in ("stored", "low", "high")),
            Argument("y", "*{y}"),
            Argument("y_scale", "*fp32"),
        ),
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
)
