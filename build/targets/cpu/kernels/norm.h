/* RMS normalization. The sum of squares has one shape per row length: 16 lanes, each a chain over the row, then sum16. */
#ifndef INFLIGHT_NORM_H
#define INFLIGHT_NORM_H

#include "pool.h"

/* 1 / sqrt(mean(x^2) + epsilon) */
INLINE float inverse_rms(const float *x, int64_t width, float epsilon) {
    f32x16 squares = splat(0.0f);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        f32x16 v = load16(F32, x, i);
        squares = fma16(v, v, squares);
    }
    if (i < width) {
        f32x16 v = load_part(F32, x, i, width - i);
        squares = fma16(v, v, squares);
    }
    return 1.0f / __builtin_sqrtf(sum16(squares) / (float)width + epsilon);
}

INLINE void normalize_row(element act, int64_t width, float epsilon, const float *x, const float *weight, void *y) {
    float inverse = inverse_rms(x, width, epsilon);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) store16(act, y, i, load16(F32, x, i) * inverse * load16(F32, weight, i));
    for (; i < width; i++) store1(act, y, i, x[i] * inverse * weight[i]);
}

INLINE void rms_norm(pool *p, int thread, element act, int64_t width, float epsilon, int64_t rows, const float *x,
                     const float *weight, void *y) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++)
        normalize_row(act, width, epsilon, x + row * width, weight, at(act, y, row * width));
}

#endif
