"""From the exact int32 sums of a product of int8 rows and weights to numbers."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant


@triton.jit
def scale_product(sums, x_scale, weight_scale, bias, y, n: tl.constexpr, has_bias: tl.constexpr, block: tl.constexpr):
    """Program (row, part): y = sums * weight_scale * x_scale + bias in `block` columns.

    sums int32 [rows, n], x_scale float32 [rows], weight_scale and bias float32 [n]; y [rows, n] of any float type.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < n
    total = tl.load(sums + row * n + column, mask=inside, other=0).to(tl.float32)
    value = total * tl.load(weight_scale + column, mask=inside, other=0.0) * tl.load(x_scale + row)
    if has_bias:
        value += tl.load(bias + column, mask=inside, other=0.0)
    tl.store(y + row * n + column, value.to(y.dtype.element_ty), mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": 1024})


SPECS = (
    KernelSpec(
        module=__name__,
        function="scale_product",
        arguments=(
            Argument("sums", "*i32"),
            Argument("x_scale", "*fp32"),
            Argument("weight_scale", "*fp32"),
            Argument("bias", "*fp32"),
            Argument("y", "*{y}"),
        ),
        grid=((Extent("rows"),), (Extent("n", "block"),)),
        tune=tune,
        variants=(
            Variant({"y": "fp32"}, {"n": 28672, "has_bias": False}),
            Variant({"y": "bf16"}, {"n": 1152, "has_bias": True}),
        ),
        decode_path=True,
    ),
)
