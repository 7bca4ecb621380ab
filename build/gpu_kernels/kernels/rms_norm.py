"""RMSNorm (Zhang and Sennrich, 2019), alone, after an addition or before one, its result plain or rounded as the rows
of a product with quantized weights."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.quantize_rows import LEVELS, SCALES, rounded
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant


@triton.jit
def rms_norm(
    x,
    delta,
    weight,
    stored,
    low,
    high,
    total,
    y,
    y_scale,
    width: tl.constexpr,
    epsilon: tl.constexpr,
    adds: tl.constexpr,
    adds_after: tl.constexpr,
    quantizes: tl.constexpr,
    float8: tl.constexpr,
    has_stored: tl.constexpr,
    cuts: tl.constexpr,
    block: tl.constexpr,
):
    """One program per row: y = s / sqrt(mean(s^2) + epsilon) * weight, where s is x + delta when `adds`, else x; with
    `adds_after` y = delta + x / ..., which may be the memory of delta.

    x, delta, total [rows, width] and weight [width]: float32, bfloat16 or float16. y [rows, width]: one of these, or,
    when `quantizes`, what `quantize_rows` makes of the float32 result with stored, low and high: int8 (levels, or the
    bits of float8) with y_scale float32 [rows]. What is normalized is the sum as it was rounded to the type of `total`.
    What is not added, not summed up or not quantized is not touched. `block` is a power of two of at least `width`; the
    sum over a row has one tree.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    at = row * width + columns
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if adds:
        added = value + tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        stored = added.to(total.dtype.element_ty)
        tl.store(total + at, stored, mask=inside)
        value = stored.to(tl.float32)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    mean_square = tl.div_rn(tl.sum(value * value, axis=0), width * 1.0)
    normal = value * tl.div_rn(1.0, tl.sqrt_rn(mean_square + epsilon)) * gain
    if adds_after:
        normal = tl.load(delta + at, mask=inside, other=0.0).to(tl.float32) + normal
    kinds: tl.constexpr = (False, False, quantizes, float8, has_stored, cuts)
    rounded(normal, (None, None, stored, low, high), y + row * width, y_scale + row, kinds, width, block)


def tune(sm: int, variant: Variant) -> Tuning:
    """8 to 32 elements a thread: the whole row is in registers between its sum and its result."""
    block = triton.next_power_of_2(int(variant.constants["width"]))
    return Tuning(num_warps=min(16, max(1, block // 512)), constants={"block": block})


def norm_variant(
    width: int,
    *,
    epsilon: float,
    adds: bool,
    adds_after: bool = False,
    x: str = "fp32",
    delta: str = "fp32",
    weight: str = "bf16",
    y: str = "bf16",
    has_stored: bool = False,
    cuts: bool = False,
) -> Variant:
    """The variant for rows of `width`; `y` may be "int8" or "float8", which quantize: `quantize_variant`."""
    quantizes = y in LEVELS
    constants: dict[str, Constant] = {
        "width": width,
        "epsilon": epsilon,
        "adds": adds,
        "adds_after": adds_after,
        "quantizes": quantizes,
        "float8": y == "float8",
        "has_stored": has_stored,
        "cuts": cuts,
    }
    return Variant({"x": x, "delta": delta, "weight": weight, "y": "i8" if quantizes else y}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="rms_norm",
        arguments=(
            Argument("x", "*{x}"),
            Argument("delta", "*{delta}"),
            Argument("weight", "*{weight}"),
            *SCALES,
            Argument("total", "*{x}"),
            Argument("y", "*{y}"),
            Argument("y_scale", "*fp32"),
        ),
        grid=((Extent("rows"),),),
        tune=tune,
        variants=(
            norm_variant(4096, epsilon=1e-5, adds=False),
            norm_variant(4096, epsilon=1e-5, adds=True),
            norm_variant(4096, epsilon=1e-5, adds=False, adds_after=True, y="fp32"),
            norm_variant(4096, epsilon=1e-5, adds=True, y="int8"),
            norm_variant(4096, epsilon=1e-5, adds=True, y="float8"),
            norm_variant(4096, epsilon=1e-5, adds=False, y="float8", has_stored=True),
            norm_variant(4096, epsilon=1e-5, adds=False, y="float8", cuts=True),
            norm_variant(4096, epsilon=1e-5, adds=False, y="int8"),
            norm_variant(896, epsilon=1e-6, adds=True, delta="bf16"),
            norm_variant(8192, epsilon=1e-5, adds=True, x="bf16", delta="bf16"),
        ),
        decode_path=True,
    ),
)
