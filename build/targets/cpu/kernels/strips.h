/* y = x w' of a router: few outputs, float32 weights in strips of 16 columns, so that none is read in vain and threads
 * share even a few. Each sum is the same chain over k as that of panels. */
#ifndef INFLIGHT_STRIPS_H
#define INFLIGHT_STRIPS_H

#include "panels.h"

/* y [rows][n] = x [rows][k] w' + bias, all float32; the bias may be NULL. A piece of work is a strip and a tile of
 * rows. */
INLINE void strip_linear(pool *p, int thread, int64_t k, int64_t n, int64_t rows, const float *x, const float *weight,
                         const float *bias, float *y) {
    const int64_t tiles = ceil_div(rows, TILE_ROWS), pieces = ceil_div(n, LANES) * tiles;
    if (rows == 0) return;
    for (;;) {
        const int64_t number = pool_take_near(p, thread, pieces, 1).number;
        if (number < 0) return;
        const int64_t column = number / tiles * LANES, tile = number % tiles;
        const int64_t first = tile_start(rows, tile), count = tile_start(rows, tile + 1) - first;
        const float *columns = weight + column * k;
        const look_ahead ahead = {tiles == 1 ? (const unsigned char *)columns + STREAM_AHEAD : NULL,
                                  tiles == 1 ? CACHE_LINE : 0};
        _Alignas(64) float sums[TILE_ROWS][LANES];
        tile_product_ahead(F32, count, LANES, k, x + first * k, k, columns, LANES, sums[0], LANES, 0, ahead);
        for (int64_t r = 0; r < count; r++) {
            f32x16 value = load16(F32, sums[r], 0);
            if (bias) value += load16(F32, bias, column);
            store_until(F32, y + (first + r) * n, column, n, value);
        }
    }
}

#endif
