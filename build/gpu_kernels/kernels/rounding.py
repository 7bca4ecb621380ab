"""Rounding in registers, the same on every GPU generation: to integers, to float8 (E4M3), and of whole rows.

float8 travels as its bits in int8: GPUs before sm_89 have no instruction for the type. E4M3 is that of Micikevicius et
al., 2022: 4 exponent bits of bias 7, no infinities, greatest magnitude 448.
"""

from __future__ import annotations

import triton
import triton.language as tl

GREATEST_INT8 = tl.constexpr(127.0)
GREATEST_FLOAT8 = tl.constexpr(448.0)
_SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)
_SMALLEST_NORMAL_FLOAT8 = tl.constexpr(0.015625)
_BFLOAT16_BIAS = tl.constexpr(1.329227995784916e36)  # 2^120
_FLOAT16_BIAS = tl.constexpr(256.0)
# 1.5 * 2^23: adding it to a float32 of magnitude below 2^22 rounds it to an integer, ties to even.
_SHIFTER = tl.constexpr(12582912.0)


@triton.jit
def round_to_integer(x):
    """float32 [...] of magnitude below 2^22 to the nearest integer, ties to even, as float32."""
    return (x + _SHIFTER) - _SHIFTER


@triton.jit
def row_scale(greatest, float8: tl.constexpr):
    """The scale of a row whose greatest magnitude is `greatest` (float32), and its inverse.

    Both are 0 when the scale would not be a normal number.
    """
    scale = tl.div_rn(greatest, GREATEST_FLOAT8 if float8 else GREATEST_INT8)
    normal = scale >= _SMALLEST_NORMAL
    return tl.where(normal, scale, 0.0), tl.where(normal, tl.div_rn(1.0, tl.where(normal, scale, 1.0)), 0.0)


@triton.jit
def quantize(x, inverse, float8: tl.constexpr):
    """x float32 [...] times `inverse`, rounded to nearest, ties to even: int8 levels, or the bits of float8 in int8."""
    if float8:
        return to_float8(tl.clamp(x * inverse, -GREATEST_FLOAT8, GREATEST_FLOAT8))
    return tl.clamp(round_to_integer(x * inverse), -GREATEST_INT8, GREATEST_INT8).to(tl.int8)


@triton.jit
def to_float8(x):
    """float32 [...] of magnitude at most 448 to the bits of float8 in int8, to nearest, ties to even."""
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # 20 bits of the fraction go; the exponent's bias goes from 127 to 7.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 a float8 is a multiple of 2^-9; the eighth multiple is the smallest normal number's own encoding.
    subnormal = round_to_integer(tl.abs(x) * 512.0).to(tl.int32)
    encoded = tl.where(tl.abs(x) < _SMALLEST_NORMAL_FLOAT8, subnormal, normal)
    return (encoded | ((bits >> 24) & 0x80)).to(tl.int8)


@triton.jit
def from_float8(bits, dtype: tl.constexpr):
    """int8 [...], the bits of float8, to the same numbers in bfloat16 or float16; NaN is not understood."""
    wide = bits.to(tl.int16)
    # The sign, extended, is at the top whatever the shift; the exponent's bias is repaired by a product, exactly, which
    # also makes subnormal numbers right.
    if dtype == tl.bfloat16:
        value = ((wide << 4) & -0x7810).to(tl.bfloat16, bitcast=True) * _BFLOAT16_BIAS
    else:
        value = ((wide << 7) & -0x4080).to(tl.float16, bitcast=True) * _FLOAT16_BIAS
    return value
