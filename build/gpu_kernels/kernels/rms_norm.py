"""RMSNorm (Zhang and Sennrich, 2019), alone, after an addition or before one, its result plain or quantized by row."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.rounding import quantize, row_scale
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant


@triton.jit
def rms_norm(
    x,
    delta,
    weight,
    total,
    y,
    y_scale,
    width: tl.constexpr,
    epsilon: tl.constexpr,
    adds: tl.constexpr,
    adds_after: tl.constexpr,
    quantizes: tl.constexpr,
    float8: tl.constexpr,
    block: tl.constexpr,
):
    """One program per row: y = s / sqrt(mean(s^2) + epsilon) * weight, where s is x + delta when `adds`, else x; with
    `adds_after` y = delta + x / ..., which may be the memory of delta.

    x, delta, total [rows, width] and weight [width]: float32, bfloat16 or float16. y [rows, width]: one of these, or,
    when `quantizes`, int8 (levels, or the bits of float8) with y_scale float32 [rows]. What is normalized is the sum as
    it was rounded to the type of `total`. What is not added, not summed up or not quantized is not
    touched. `block` is a power of two of at least `width`; the sum over a row has one tree.
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
    if quantizes:
        scale, inverse = row_scale(tl.max(tl.abs(normal), axis=0), float8)
        tl.store(y_scale + row, scale)
        tl.store(y + at, quantize(normal, inverse, float8), mask=inside)
    else:
        tl.store(y + at, normal.to(y.dtype.element_ty), mask=inside)


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
) -> Variant:
    """The variant for rows of `width`; `y` may be "int8" or "float8", which quantize."""
    quantizes = y in ("int8", "float8")
    constants: dict[str, Constant] = {
        "width": width,
        "epsilon": epsilon,
        "adds": adds,
        "adds_after": adds_after,
        "quantizes": quantizes,
        "float8": y == "float8",
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
            norm_variant(896, epsilon=1e-6, adds=True, delta="bf16"),
            norm_variant(8192, epsilon=1e-5, adds=True, x="bf16", delta="bf16"),
        ),
        decode_path=True,
    ),
)
