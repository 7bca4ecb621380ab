/* The rows that meet E4M3 weights: E4M3 kept as bfloat16, which holds it exactly, or bfloat16 itself. */
#ifndef INFLIGHT_FLOAT8_ROWS_H
#define INFLIGHT_FLOAT8_ROWS_H

#include "quantize.h"

/* Rows of E4M3 have their own scale, the greatest magnitude / 448, once they are cut to low .. high, or share a stored
 * one; those that are bfloat16, UNROUNDED to E4M3, have 1. */
typedef enum { OWN_SCALE, STORED_SCALE, UNROUNDED } row_scaling;

typedef struct {
    int64_t width;
    row_scaling scaling;
    float low, high;
} float8_row;

INLINE f32x16 cut_values_at(float8_row q, row_values v, int64_t i) {
    const f32x16 x = values_at(v, q.width, i), low = splat(q.low), high = splat(q.high);
    return select16((i32x16)(x > high), high, select16((i32x16)(x < low), low, x));
}

/* The scale of a row of zeros is that of a magnitude of 2^-100. A NaN is the greatest of all. */
INLINE float own_scale(float8_row q, row_values v) {
    const float least = 0x1p-100f;
    u32x16 greatest = (u32x16)splat(least);
    for (int64_t i = 0; i < q.width; i += LANES)
        greatest = __builtin_elementwise_max(greatest, (u32x16)cut_values_at(q, v, i) & 0x7fffffffu);
    const uint32_t bits = __builtin_reduce_max(greatest);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value / GREATEST_E4M3;
}

INLINE void round_float8_row(float8_row q, row_values v, float stored, uint16_t *y, float *y_scale) {
    ask_for_row(y, q.width * (int64_t)sizeof *y);
    const float scale = q.scaling == UNROUNDED ? 1.0f : q.scaling == STORED_SCALE ? stored : own_scale(q, v);
    *y_scale = scale;
    for (int64_t i = 0; i < q.width; i += LANES) {
        const f32x16 values = q.scaling == OWN_SCALE ? cut_values_at(q, v, i) : values_at(v, q.width, i);
        const f32x16 rounded = q.scaling == UNROUNDED ? values : round_to_e4m3(values / scale);
        if (i + LANES <= q.width) store16(BF16, y, i, rounded);
        else store_part(BF16, y, i, q.width - i, rounded);
    }
}

/* x [rows][width] to y, bfloat16, and y_scale; `factors` of the rows' values (NULL: none), `scale`: the stored one. */
INLINE void float8_rows(pool *p, int thread, element type, float8_row q, int64_t rows, const void *x,
                        const float *factors, float scale, void *y, float *y_scale) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++)
        round_float8_row(q, (row_values){type, at(type, x, row * q.width), factors, 1.0f}, scale,
                         (uint16_t *)y + row * q.width, y_scale + row);
}

INLINE void rms_norm_float8_rows(pool *p, int thread, float8_row q, float epsilon, int64_t rows, const float *x,
                                 const float *weight, float scale, void *y, float *y_scale) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++) {
        const float *values = x + row * q.width;
        round_float8_row(q, (row_values){F32, values, weight, inverse_rms(values, q.width, epsilon)}, scale,
                         (uint16_t *)y + row * q.width, y_scale + row);
    }
}

#endif
