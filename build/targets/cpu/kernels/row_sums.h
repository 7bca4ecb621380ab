/* A product whose rows are parts of sums: each is weighed and added to that of a row of the step, 64 columns at a time.
 * The sums of one panel and a block of rows lie together, in the cache of the thread that adds them up. */
#ifndef INFLIGHT_ROW_SUMS_H
#define INFLIGHT_ROW_SUMS_H

#include "panels.h"

#define SUM_ROWS 512 /* at most: 128 KiB on the stack */

typedef struct {
    float (*sums)[PANEL];
    int64_t first;        /* the row of the step whose sums are the first */
    const int32_t *rows;  /* of every row of the product: that of the step, */
    const int32_t *pairs; /* and its place among the weights */
    const float *weights; /* NULL: 1 */
} row_sums;

/* Where row `row` of a product is added, and its weight. */
INLINE float *sums_of(const row_sums *into, int64_t row) { return into->sums[into->rows[row] - into->first]; }
INLINE f32x16 weight_of(const row_sums *into, int64_t row) {
    return splat(into->weights ? into->weights[into->pairs[row]] : 1.0f);
}

/* sums[row of the step] += weight * (tile + bias) of the product's rows from `row` on; the bias is the panel's own, or
 * NULL. */
INLINE void add_to_sums(const row_sums *into, const panel_tile tile, int64_t row, int64_t rows, const float *bias) {
    for (int64_t r = 0; r < rows; r++) {
        float *sum = sums_of(into, row + r);
        const f32x16 weight = weight_of(into, row + r);
        UNROLL for (int64_t c = 0; c < PANEL; c += LANES) {
            f32x16 value = load16(F32, tile[r], c);
            if (bias) value += load16(F32, bias, c);
            store16(F32, sum, c, fma16(weight, value, load16(F32, sum, c)));
        }
    }
}

/* y [rows][width] = residual + sums, of the panel's columns and `count` rows from row `first` on; the residual may be
 * NULL, and may be y. */
INLINE void store_row_sums(const float (*sums)[PANEL], int64_t panel, int64_t first, int64_t count, int64_t width,
                       const float *residual, float *y) {
    const int64_t column = panel * PANEL, columns = min_int(PANEL, width - column);
    for (int64_t r = 0; r < count; r++) {
        const int64_t place = (first + r) * width + column;
        for (int64_t c = 0; c < columns; c += LANES) {
            f32x16 sum = load16(F32, sums[r], c);
            if (residual) sum += load_until(F32, residual + place, c, columns);
            store_until(F32, y + place, c, columns, sum);
        }
    }
}

#endif
