/* What is computed element by element between products: activations, gates, scales, soft caps and sums of rows.
 *
 * Threads share the elements of all rows, 16 at a time, since there may be one row alone, as wide as the vocabulary. y
 * may be the memory of a float32 input: an element is read before it is written. */
#ifndef INFLIGHT_ELEMENTWISE_H
#define INFLIGHT_ELEMENTWISE_H

#include "activation.h"
#include "pool.h"

typedef struct {
    int64_t start, end; /* start is a multiple of LANES */
} element_share;

INLINE element_share share_elements(const pool *p, int thread, int64_t count) {
    const int64_t vectors = ceil_div(count, LANES);
    return (element_share){share_start(p, thread, vectors) * LANES,
                           min_int(count, share_start(p, thread + 1, vectors) * LANES)};
}

/* y act = function(x) */
INLINE void activate_rows(pool *p, int thread, element act, activation function, int64_t width, int64_t rows,
                          const float *x, void *y) {
    const element_share s = share_elements(p, thread, rows * width);
    for (int64_t i = s.start; i < s.end; i += LANES)
        store_until(act, y, i, s.end, activate16(function, load_until(F32, x, i, s.end)));
}

/* y act = function(gates) * up */
INLINE void gate_rows(pool *p, int thread, element act, activation function, int64_t width, int64_t rows,
                      const float *gates, const float *up, void *y) {
    const element_share s = share_elements(p, thread, rows * width);
    for (int64_t i = s.start; i < s.end; i += LANES)
        store_until(act, y, i, s.end,
                    activate16(function, load_until(F32, gates, i, s.end)) * load_until(F32, up, i, s.end));
}

/* y act = xIELU of x, by its numbers (see docs/formats/operators.md) */
INLINE void xielu_rows(pool *p, int thread, element act, int64_t width, float positive, float negative, float beta,
                       float epsilon, int64_t rows, const float *x, void *y) {
    const element_share s = share_elements(p, thread, rows * width);
    for (int64_t i = s.start; i < s.end; i += LANES)
        store_until(act, y, i, s.end, xielu16(load_until(F32, x, i, s.end), positive, negative, beta, epsilon));
}

/* y = x * factor */
INLINE void scale_rows(pool *p, int thread, int64_t width, float factor, int64_t rows, const float *x, float *y) {
    const element_share s = share_elements(p, thread, rows * width);
    for (int64_t i = s.start; i < s.end; i += LANES)
        store_until(F32, y, i, s.end, load_until(F32, x, i, s.end) * factor);
}

/* y = x cut to low .. high; a NaN stays one. */
INLINE void clip_rows(pool *p, int thread, int64_t width, float low, float high, int64_t rows, const float *x,
                      float *y) {
    const element_share s = share_elements(p, thread, rows * width);
    for (int64_t i = s.start; i < s.end; i += LANES) {
        f32x16 v = load_until(F32, x, i, s.end);
        v = select16(v < splat(low), splat(low), v);
        store_until(F32, y, i, s.end, select16(v > splat(high), splat(high), v));
    }
}

/* y = cap tanh(x / cap) */
INLINE void soft_cap_rows(pool *p, int thread, int64_t width, float cap, int64_t rows, const float *x, float *y) {
    const element_share s = share_elements(p, thread, rows * width);
    for (int64_t i = s.start; i < s.end; i += LANES)
        store_until(F32, y, i, s.end, tanh16(load_until(F32, x, i, s.end) / cap) * cap);
}

/* y = x / (1 + e^-gate), one gate for each row */
INLINE void gate_whole_rows(pool *p, int thread, int64_t width, int64_t rows, const float *x, const float *gates,
                            float *y) {
    const int64_t vectors = ceil_div(width, LANES);
    for (int64_t i = share_start(p, thread, rows * vectors); i < share_start(p, thread + 1, rows * vectors); i++) {
        const int64_t row = i / vectors, start = row * width + i % vectors * LANES, end = (row + 1) * width;
        const f32x16 share = over_one_plus_power(splat(1.0f), splat(gates[row]) * splat(-1.44269504f));
        store_until(F32, y, start, end, load_until(F32, x, start, end) * share);
    }
}

/* y = residual + x * factor */
INLINE void add_rows(pool *p, int thread, int64_t width, float factor, int64_t rows, const float *x,
                     const float *residual, float *y) {
    const element_share s = share_elements(p, thread, rows * width);
    for (int64_t i = s.start; i < s.end; i += LANES)
        store_until(F32, y, i, s.end, load_until(F32, residual, i, s.end) + load_until(F32, x, i, s.end) * factor);
}

#endif
