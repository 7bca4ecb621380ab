"""What changes rows element by element: activations, factors, soft caps, clipping, rounding, sums of two rows."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.activation import ACTIVATION_KINDS, activated, hyperbolic_tangent
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant

# Behind the kinds of activations.
ROW_FUNCTIONS = {**ACTIVATION_KINDS, "scale": 16, "soft_cap": 17, "clip": 18, "gate": 19, "xielu": 20}
_SCALE = tl.constexpr(16)
_SOFT_CAP = tl.constexpr(17)
_CLIP = tl.constexpr(18)
_GATE = tl.constexpr(19)
_XIELU = tl.constexpr(20)
# From here on e^x - 1 keeps its digits without a series.
_SERIES = tl.constexpr(-0.5)


@triton.jit
def row_function(
    x,
    other,
    y,
    width: tl.constexpr,
    function: tl.constexpr,
    first: tl.constexpr,
    second: tl.constexpr,
    third: tl.constexpr,
    fourth: tl.constexpr,
    adds: tl.constexpr,
    gates: tl.constexpr,
    block: tl.constexpr,
):
    """Program (row, part): y = other + f(x) when `adds`, f(x) * other when `gates`, else f(x), in `block` columns.

    x, other and y [rows, width] of any float type; y may be the memory of x or of other. `function` is one of
    ROW_FUNCTIONS: "scale" is x * first (a factor of 1 copies and rounds), "soft_cap" first * tanh(x / first), "clip"
    what lies between `first` and `second`. "xielu" (Huang and Schlag, 2024) is first x^2 + third x above 0, and
    second (e^min(x, fourth) - 1 - x) + third x elsewhere. "gate" is x / (1 + e^-other), other being float32 [rows, 1].
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    at = row * width + columns
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if function == _SCALE:
        value = value * first
    elif function == _SOFT_CAP:
        value = first * hyperbolic_tangent(tl.div_rn(value, first))
    elif function == _CLIP:
        value = tl.minimum(tl.maximum(value, first), second)
    elif function == _GATE:
        value = tl.div_rn(value, 1.0 + tl.exp(-tl.load(other + row).to(tl.float32)))
    elif function == _XIELU:
        left = second * (_below_one(tl.minimum(value, fourth)) - value)
        value = third * value + tl.where(value > 0.0, first * (value * value), left)
    else:
        value = activated(value, function)
    if adds:
        value = tl.load(other + at, mask=inside, other=0.0).to(tl.float32) + value
    if gates:
        value = value * tl.load(other + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _below_one(x):
    """e^x - 1 of x below 0, float32: near 0 a series (Taylor's), since the difference loses digits."""
    small = tl.maximum(x, _SERIES)
    series = 1.0 / 40320.0 + small * (1.0 / 362880.0)
    series = 1.0 / 5040.0 + small * series
    series = 1.0 / 720.0 + small * series
    series = 1.0 / 120.0 + small * series
    series = 1.0 / 24.0 + small * series
    series = 1.0 / 6.0 + small * series
    series = 0.5 + small * series
    return tl.where(x < _SERIES, tl.exp(x) - 1.0, small + small * small * series)


def tune(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": 1024})


def function_variant(
    width: int,
    function: str,
    *,
    first: float = 1.0,
    second: float = 0.0,
    third: float = 0.0,
    fourth: float = 0.0,
    adds: bool = False,
    gates: bool = False,
    x: str = "fp32",
    other: str = "fp32",
    y: str = "fp32",
) -> Variant:
    """For rows of `width` and a function by its name in ROW_FUNCTIONS."""
    kind = ROW_FUNCTIONS[function]
    numbers = {"first": float(first), "second": float(second), "third": float(third), "fourth": float(fourth)}
    constants = {"width": width, "function": kind, **numbers, "adds": adds, "gates": gates}
    return Variant({"x": x, "other": other, "y": y}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="row_function",
        arguments=(Argument("x", "*{x}"), Argument("other", "*{other}"), Argument("y", "*{y}")),
        grid=((Extent("rows"),), (Extent("width", "block"),)),
        tune=tune,
        variants=(
            function_variant(14336, "gelu", y="bf16"),
            function_variant(8192, "gelu_tanh", gates=True, y="bf16"),
            function_variant(4096, "scale", first=0.22, adds=True),
            function_variant(256000, "soft_cap", first=30.0),
            function_variant(896, "gate"),
            function_variant(21504, "xielu", first=0.8, second=1.3, third=0.5, fourth=-1e-6, y="bf16"),
        ),
        decode_path=True,
    ),
)
