/* Activations of the MLP, and the functions that they and soft caps are made of, 16 lanes at a time.
 *
 * Each is one chain of operations without branches, so its bits are the same on every machine. Rational functions are
 * minimax fits in x^2, made for the relative error that stands beside them. */
#ifndef INFLIGHT_ACTIVATION_H
#define INFLIGHT_ACTIVATION_H

#include "vec.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef enum { NO_ACTIVATION, SILU, GELU_TANH, GELU, RELU, RELU2, CLAMPED_SWIGLU } activation;

/* p 2^n, a normal number; n is whole. */
INLINE f32x16 times_power(f32x16 p, f32x16 n) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return (f32x16)((i32x16)p + (__builtin_convertvector(n, i32x16) << 23));
#endif
}

/* x / (1 + 2^exponent). 2^exponent is 2^(n + f), n whole: a minimax polynomial in f of degree 5 (relative error 2e-7),
 * times 2^n. */
INLINE f32x16 over_one_plus_power(f32x16 x, f32x16 exponent) {
    exponent = __builtin_elementwise_min(__builtin_elementwise_max(exponent, splat(-126.0f)), splat(127.0f));
    const f32x16 n = __builtin_elementwise_roundeven(exponent), f = exponent - n;
    f32x16 p = splat(1.326472731e-3f);
    p = fma16(p, f, splat(9.671512991e-3f));
    p = fma16(p, f, splat(5.550733581e-2f));
    p = fma16(p, f, splat(2.402224243e-1f));
    p = fma16(p, f, splat(6.931470037e-1f));
    p = fma16(p, f, splat(1.0f));
    return x / (1.0f + times_power(p, n));
}

/* x within -limit .. limit; a NaN stays one. */
INLINE f32x16 clamp16(f32x16 x, float limit) {
    x = select16(x > splat(limit), splat(limit), x);
    return select16(x < splat(-limit), splat(-limit), x);
}

/* tanh x to 3.1e-7; from 9.02 on, where it is 1 to the last bit, it is that. */
INLINE f32x16 tanh16(f32x16 x) {
    x = clamp16(x, 9.02f);
    const f32x16 u = x * x;
    f32x16 p = fma16(splat(1.331781e-8f), u, splat(2.05825727e-5f));
    p = fma16(p, u, splat(3.49398027e-3f));
    p = fma16(p, u, splat(1.33796722e-1f));
    p = fma16(p, u, splat(1.0f));
    f32x16 q = fma16(splat(7.76150216e-7f), u, splat(3.28300317e-4f));
    q = fma16(q, u, splat(2.58708689e-2f));
    q = fma16(q, u, splat(4.67129886e-1f));
    q = fma16(q, u, splat(1.0f));
    return x * p / q;
}

/* The error function to 3.3e-7; from 3.93 on, where it is 1 to the last bit, it is that. */
INLINE f32x16 erf16(f32x16 x) {
    x = clamp16(x, 3.93f);
    const f32x16 u = x * x;
    f32x16 p = fma16(splat(1.98132657e-8f), u, splat(-1.95509961e-6f));
    p = fma16(p, u, splat(1.42460631e-4f));
    p = fma16(p, u, splat(3.73570947e-3f));
    p = fma16(p, u, splat(5.06860316e-2f));
    p = fma16(p, u, splat(2.00783417e-1f));
    p = fma16(p, u, splat(1.12837911f));
    f32x16 q = fma16(splat(9.63621307e-4f), u, splat(1.44248353e-2f));
    q = fma16(q, u, splat(1.15352213e-1f));
    q = fma16(q, u, splat(5.11271298e-1f));
    q = fma16(q, u, splat(1.0f));
    return x * p / q;
}

/* x / (1 + e^-x) */
INLINE f32x16 silu16(f32x16 x) { return over_one_plus_power(x, x * splat(-1.44269504f)); }

/* x/2 (1 + tanh(z)) = x / (1 + e^-2z) with z = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel, 2016). */
INLINE f32x16 gelu_tanh16(f32x16 x) {
    return over_one_plus_power(x, x * fma16(x * x, splat(0.044715f), splat(1.0f)) * splat(-2.30220820f));
}

/* x/2 (1 + erf(x / sqrt 2)) */
INLINE f32x16 gelu16(f32x16 x) { return splat(0.5f) * x * (1.0f + erf16(x * splat(0.707106781f))); }

/* max(x, 0); a NaN stays one. */
INLINE f32x16 relu16(f32x16 x) { return select16(x < splat(0.0f), splat(0.0f), x); }

/* e^x - 1 of x up to 0, to 3e-7 of itself: 2^n (2^f - 1) + (2^n - 1), whose last term is exact; n = 0 near 0, where the
 * difference of two powers would lose digits. */
INLINE f32x16 below_one16(f32x16 x) {
    const f32x16 magic = splat(12582912.0f);
    const f32x16 exponent = __builtin_elementwise_max(x * splat(1.44269504f), splat(-126.0f));
    const f32x16 rounded = exponent + magic, f = exponent - (rounded - magic);
    f32x16 q = splat(1.326472731e-3f);
    q = fma16(q, f, splat(9.671512991e-3f));
    q = fma16(q, f, splat(5.550733581e-2f));
    q = fma16(q, f, splat(2.402224243e-1f));
    q = fma16(q, f, splat(6.931470037e-1f)) * f;
    const f32x16 power = (f32x16)((i32x16)splat(1.0f) + ((i32x16)rounded << 23));
    return fma16(power, q, power - splat(1.0f));
}

/* positive x^2 + beta x above 0, negative (e^min(x, epsilon) - 1 - x) + beta x elsewhere (Huang and Schlag, 2024). */
INLINE f32x16 xielu16(f32x16 x, float positive, float negative, float beta, float epsilon) {
    const f32x16 least = select16(x > splat(epsilon), splat(epsilon), x);
    const f32x16 left = (below_one16(least) - x) * splat(negative), right = x * x * splat(positive);
    return fma16(x, splat(beta), select16(x > splat(0.0f), right, left));
}

INLINE f32x16 activate16(activation function, f32x16 x) {
    switch (function) {
        case SILU: return silu16(x);
        case GELU_TANH: return gelu_tanh16(x);
        case GELU: return gelu16(x);
        case RELU: return relu16(x);
        case RELU2: return relu16(x) * relu16(x);
        default: return x;
    }
}

/* (u + 1) g / (1 + e^(-1.702 g)), with g = min(gate, 7) and u = up within -7 .. 7; a NaN stays one. */
INLINE f32x16 clamped_swiglu16(f32x16 gate, f32x16 up) {
    gate = select16(gate > splat(7.0f), splat(7.0f), gate);
    return (clamp16(up, 7.0f) + 1.0f) * over_one_plus_power(gate, gate * splat(-1.702f * 1.44269504f));
}

/* What becomes of a gate and what multiplies it. */
INLINE f32x16 gated16(activation function, f32x16 gate, f32x16 up) {
    return function == CLAMPED_SWIGLU ? clamped_swiglu16(gate, up) : activate16(function, gate) * up;
}

#endif
