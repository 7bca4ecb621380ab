"""SwiGLU (Shazeer, 2020): silu(gate) * up from the row of one merged product, plain or quantized by row."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.rounding import quantize, row_scale
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant


@triton.jit
def swiglu(gate_up, y, width: tl.constexpr, block: tl.constexpr):
    """Program (row, part): y = gate / (1 + exp(-gate)) * up in `block` columns.

    gate_up [rows, 2 width]: the columns of the gate, then those of up. y [rows, width]. Each is float32, bfloat16 or
    float16.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    product = gated(gate_up + row * (2 * width), columns, width)
    tl.store(y + row * width + columns, product.to(y.dtype.element_ty), mask=columns < width)


@triton.jit
def swiglu_quantize(gate_up, y, y_scale, width: tl.constexpr, float8: tl.constexpr, block: tl.constexpr):
    """One program per row. y int8 [rows, width] (levels, or the bits of float8), y_scale float32 [rows]; `block` is a
    power of two of at least `width`."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    product = gated(gate_up + row * (2 * width), columns, width)
    scale, inverse = row_scale(tl.max(tl.abs(product), axis=0), float8)
    tl.store(y_scale + row, scale)
    tl.store(y + row * width + columns, quantize(product, inverse, float8), mask=columns < width)


@triton.jit
def gated(gate, columns, width: tl.constexpr):
    """float32 products of the row at `gate` for `columns`; 0 past its end."""
    inside = columns < width
    value = tl.load(gate + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate + width + columns, mask=inside, other=0.0).to(tl.float32)
    return tl.div_rn(value, 1.0 + tl.exp(-value)) * up


def tune(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": 1024})


def tune_row(sm: int, variant: Variant) -> Tuning:
    """The whole row is in registers between its maximum and its result."""
    block = triton.next_power_of_2(int(variant.constants["width"]))
    return Tuning(num_warps=min(16, max(1, block // 512)), constants={"block": block})


SPECS = (
    KernelSpec(
        module=__name__,
        function="swiglu",
        arguments=(Argument("gate_up", "*{gate_up}"), Argument("y", "*{y}")),
        grid=((Extent("rows"),), (Extent("width", "block"),)),
        tune=tune,
        variants=(
            Variant({"gate_up": "bf16", "y": "bf16"}, {"width": 14336}),
            Variant({"gate_up": "fp32", "y": "bf16"}, {"width": 4864}),
        ),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="swiglu_quantize",
        arguments=(Argument("gate_up", "*{gate_up}"), Argument("y", "*i8"), Argument("y_scale", "*fp32")),
        grid=((Extent("rows"),),),
        tune=tune_row,
        variants=(
            Variant({"gate_up": "bf16"}, {"width": 14336, "float8": False}),
            Variant({"gate_up": "fp32"}, {"width": 14336, "float8": True}),
            Variant({"gate_up": "bf16"}, {"width": 4864, "float8": False}),
        ),
        decode_path=True,
    ),
)
