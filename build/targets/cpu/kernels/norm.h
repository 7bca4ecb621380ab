/* Normalization of rows. A sum over a row has one shape per length: 16 lanes, each a chain over the row, then sum16. */
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

/* Rows of q, k and v side by side, of which q and k are normalized, each as a whole; y may be x. */
INLINE void qkv_norm(pool *p, int thread, int64_t width, int64_t q_width, int64_t k_width, float epsilon, int64_t rows,
                     const float *x, const float *q_norm, const float *k_norm, float *y) {
    const int64_t normed = q_width + k_width;
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++) {
        const float *from = x + row * width;
        float *to = y + row * width;
        normalize_row(F32, q_width, epsilon, from, q_norm, to);
        normalize_row(F32, k_width, epsilon, from + q_width, k_norm, to + q_width);
        memmove(to + normed, from + normed, (size_t)(width - normed) * sizeof(float));
    }
}

/* y = residual + the normalized row; y may be the residual. */
INLINE void rms_norm_add(pool *p, int thread, int64_t width, float epsilon, int64_t rows, const float *x,
                         const float *weight, const float *residual, float *y) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++) {
        const float *values = x + row * width, *added = residual + row * width;
        const float inverse = inverse_rms(values, width, epsilon);
        for (int64_t i = 0; i < width; i += LANES) {
            const f32x16 normalized = load_until(F32, values, i, width) * inverse * load16(F32, weight, i);
            store_until(F32, y + row * width, i, width, load_until(F32, added, i, width) + normalized);
        }
    }
}

/* The sum over a row of x - shift, or of its square. */
INLINE float sum_row(const float *x, int64_t width, float shift, int squared) {
    f32x16 sums = splat(0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        f32x16 v = load_until(F32, x, i, width) - shift;
        if (i + LANES > width) v = select16(lane_numbers() < (int32_t)(width - i), v, splat(0.0f));
        sums = squared ? fma16(v, v, sums) : sums + v;
    }
    return sum16(sums);
}

/* (x - mean) / sqrt(variance + epsilon) * weight + bias; the bias may be NULL. */
INLINE void layer_norm(pool *p, int thread, element act, int64_t width, float epsilon, int64_t rows, const float *x,
                       const float *weight, const float *bias, void *y) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++) {
        const float *values = x + row * width;
        const float mean = sum_row(values, width, 0.0f, 0) / (float)width;
        const float inverse = 1.0f / __builtin_sqrtf(sum_row(values, width, mean, 1) / (float)width + epsilon);
        for (int64_t i = 0; i < width; i += LANES) {
            f32x16 v = (load_until(F32, values, i, width) - mean) * inverse * load16(F32, weight, i);
            if (bias) v += load16(F32, bias, i);
            store_until(act, at(act, y, row * width), i, width, v);
        }
    }
}

#endif
