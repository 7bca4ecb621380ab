"""Arithmetic of sampling, bit for bit that of `inflight.runtime.sampling.reference`.

Softmax weights are multiples of 2^-32; here they are integers in units of 2^-32, so sums of up to 2^20 of them are
exact in int64 (and in float64) and have no order. Products and sums of float32 must not fuse.
"""

from __future__ import annotations

import triton
import triton.language as tl

INFINITY = tl.constexpr(float("inf"))
_LARGEST = tl.constexpr(3.4028234663852886e38)
_SHIFTER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer
UNITS = tl.constexpr(4294967296.0)
_WHOLE = tl.constexpr(8388608.0)  # float32 numbers from here on are integers
_LOG2_E = tl.constexpr(1.44269504)
_LN2_HIGH = tl.constexpr(0.693359375)
_LN2_LOW = tl.constexpr(-2.12194440e-4)
# 1 / n!, rounded to float32
_TAYLOR_7 = tl.constexpr(0.0001984127011382952)
_TAYLOR_6 = tl.constexpr(0.0013888889225199819)
_TAYLOR_5 = tl.constexpr(0.008333333767950535)
_TAYLOR_4 = tl.constexpr(0.0416666679084301)
_TAYLOR_3 = tl.constexpr(0.1666666716337204)
# A place in the order of a row: the value's key above, and below it what falls as the id rises.
_ID_BITS = tl.constexpr(21)
_LAST_ID = tl.constexpr((1 << 21) - 1)
_PHILOX_EVEN = tl.constexpr(0xD2511F53)
_PHILOX_ODD = tl.constexpr(0xCD9E8D57)
_KEY_LOW = tl.constexpr(0x9E3779B9)
_KEY_HIGH = tl.constexpr(0xBB67AE85)


@triton.jit
def sane(x):
    """float32: NaN counts as -infinity, +infinity as the largest number, -0 as 0."""
    number = tl.where(x == x, x, -INFINITY)
    return tl.where(number > _LARGEST, _LARGEST, number) + 0.0


@triton.jit
def weight_units(values, greatest, temperature):
    """exp((values - greatest) / temperature) rounded to units of 2^-32, as whole float32; 1 is 2^32 units.

    exp is x = n ln 2 + r and the Taylor polynomial of degree 7 in r.
    """
    x = tl.div_rn(values - greatest, temperature)
    x = tl.where(x > -24.0, x, -24.0)
    shifted = x * _LOG2_E + _SHIFTER
    n = shifted - _SHIFTER
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = r * _TAYLOR_7 + _TAYLOR_6
    p = p * r + _TAYLOR_5
    p = p * r + _TAYLOR_4
    p = p * r + _TAYLOR_3
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    # The low bits of `shifted` are n; those of the shifter leave the word.
    bits = p.to(tl.int32, bitcast=True) + (shifted.to(tl.int32, bitcast=True) << 23)
    units = bits.to(tl.float32, bitcast=True) * UNITS
    return tl.where(units < _WHOLE, (units + _WHOLE) - _WHOLE, units)


@triton.jit
def order_key(values):
    """uint32 in the order of sane float32 values."""
    bits = values.to(tl.uint32, bitcast=True)
    return tl.where(bits >= 0x80000000, ~bits, bits | 0x80000000)


@triton.jit
def key_value(key):
    """The float32 of an order key (uint32)."""
    return tl.where(key >= 0x80000000, key & 0x7FFFFFFF, ~key).to(tl.float32, bitcast=True)


@triton.jit
def place_of(values, token):
    """int64 above 0 in the order of tokens: by sane float32 values, and among equals the lower id is greater."""
    return (order_key(values).to(tl.int64) << _ID_BITS) | (token ^ _LAST_ID)


@triton.jit
def value_at(place):
    """The value of a place."""
    return key_value((place >> _ID_BITS).to(tl.uint32))


@triton.jit
def token_at(place):
    """The id of a place, int32."""
    return ((place & _LAST_ID) ^ _LAST_ID).to(tl.int32)


@triton.jit
def philox_uniform(seed, position):
    """float64 in [0, 1) of 53 random bits: Philox4x32-10 (Salmon et al., SC 2011) with key `seed`, counter `position`.

    Both are int64, taken as unsigned.
    """
    low_word = 0xFFFFFFFF
    counter_0 = position & low_word
    counter_1 = (position >> 32) & low_word
    counter_2 = counter_0 * 0
    counter_3 = counter_0 * 0
    key_low = seed & low_word
    key_high = (seed >> 32) & low_word
    for _ in tl.static_range(10):
        even_high, even_low = _wide_product(counter_0, _PHILOX_EVEN)
        odd_high, odd_low = _wide_product(counter_2, _PHILOX_ODD)
        counter_0 = odd_high ^ counter_1 ^ key_low
        counter_2 = even_high ^ counter_3 ^ key_high
        counter_1 = odd_low
        counter_3 = even_low
        key_low = (key_low + _KEY_LOW) & low_word
        key_high = (key_high + _KEY_HIGH) & low_word
    bits = (counter_1 << 21) | (counter_0 >> 11)
    return bits.to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def _wide_product(word, factor: tl.constexpr):
    """High and low 32 bits of word * factor: int64 words of 32 bits, multiplied in halves so that nothing overflows."""
    low = (word & 0xFFFF) * factor
    high = (word >> 16) * factor + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)
