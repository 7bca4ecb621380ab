"""Activations in registers, by the names of the fused operators (docs/formats/operators.md)."""

from __future__ import annotations

import triton
import triton.language as tl

ACTIVATION_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu2": 4}
SILU = tl.constexpr(0)
GELU = tl.constexpr(1)
GELU_TANH = tl.constexpr(2)
RELU2 = tl.constexpr(4)
_HALF_ROOT = tl.constexpr(0.7071067811865476)  # sqrt(1 / 2)
_ROOT = tl.constexpr(0.7978845608028654)  # sqrt(2 / pi)


@triton.jit
def activated(x, kind: tl.constexpr):
    """float32 [...] of the same shape. `kind` is one of ACTIVATION_KINDS."""
    if kind == SILU:
        return tl.div_rn(x, 1.0 + tl.exp(-x))
    if kind == GELU:
        return 0.5 * x * (1.0 + tl.erf(x * _HALF_ROOT))
    if kind == GELU_TANH:
        return 0.5 * x * (1.0 + hyperbolic_tangent((x + 0.044715 * (x * x * x)) * _ROOT))
    positive = tl.maximum(x, 0.0)
    if kind == RELU2:
        return positive * positive
    return positive


@triton.jit
def hyperbolic_tangent(x):
    """float32 [...]: tanh(x) = 1 - 2 / (e^2x + 1), which ends at 1 and -1 where the power overflows or vanishes."""
    return 1.0 - tl.div_rn(2.0, tl.exp(2.0 * x) + 1.0)
