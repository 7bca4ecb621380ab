"""LayerNorm (Ba, Kiros and Hinton, 2016) of whole rows."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant


@triton.jit
def layer_norm(
    x, weight, bias, y, width: tl.constexpr, epsilon: tl.constexpr, has_bias: tl.constexpr, block: tl.constexpr
):
    """One program per row: y = (x - mean) / sqrt(variance + epsilon) * weight + bias.

    x, y [rows, width], weight and bias [width] of any float type; the bias is read if `has_bias`. `block` is a power of
    two of at least `width`; the sums over a row have one tree.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    value = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    mean = tl.div_rn(tl.sum(value, axis=0), width * 1.0)
    distance = tl.where(inside, value - mean, 0.0)
    variance = tl.div_rn(tl.sum(distance * distance, axis=0), width * 1.0)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    normal = distance * tl.div_rn(1.0, tl.sqrt_rn(variance + epsilon)) * gain
    if has_bias:
        normal += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + columns, normal.to(y.dtype.element_ty), mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    """8 elements a thread: the whole row is in registers between its sums and its result."""
    block = triton.next_power_of_2(int(variant.constants["width"]))
    return Tuning(num_warps=min(16, max(1, block // 256)), constants={"block": block})


def layer_norm_variant(
    width: int, *, epsilon: float, has_bias: bool, weight: str = "bf16", bias: str = "bf16", y: str = "bf16"
) -> Variant:
    """For float32 rows of `width`."""
    constants = {"width": width, "epsilon": epsilon, "has_bias": has_bias}
    return Variant({"x": "fp32", "weight": weight, "bias": bias, "y": y}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="layer_norm",
        arguments=(
            Argument("x", "*{x}"),
            Argument("weight", "*{weight}"),
            Argument("bias", "*{bias}"),
            Argument("y", "*{y}"),
        ),
        grid=((Extent("rows"),),),
        tune=tune,
        variants=(
            layer_norm_variant(4096, epsilon=1e-5, has_bias=True),
            layer_norm_variant(8192, epsilon=1e-5, has_bias=False),
        ),
        decode_path=True,
    ),
)
