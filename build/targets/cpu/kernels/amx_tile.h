/* The bfloat16 product in tiles of AMX (amx.h): up to AMX_ROWS rows against one panel.
 *
 * TDPBF16PS takes a block of 32 k: the products of even k are one chain of fused additions that begins at zero, those
 * of odd k another, and the sum of the two is added to the accumulator (denormals count as zero). Blocks are counted
 * from the first k of a row, so an element's bits depend neither on the number of rows nor on the tile's shape. They
 * are not those of VDPBF16PS: an engine uses tiles for every number of rows. */
#ifndef INFLIGHT_AMX_TILE_H
#define INFLIGHT_AMX_TILE_H

#include "amx.h"

#define BLOCK_VALUES 32 /* of k */

/* The last `count` < BLOCK_VALUES of k, with zeros behind them in rows and lines: what lies there in memory may be NaN,
 * and a panel may end. */
static void multiply_last_pairs(int wide, int64_t rows, int64_t count, const uint16_t *x, int64_t x_stride,
                                const unsigned char *lines) {
    _Alignas(64) uint16_t ends[AMX_ROWS][BLOCK_VALUES] = {{0}};
    _Alignas(64) unsigned char filled[BLOCK_LINES][LINE_BYTES] = {{0}};
    for (int64_t r = 0; r < rows; r++) memcpy(ends[r], x + r * x_stride, (size_t)count * sizeof *x);
    const int64_t pairs = ceil_div(count, 2), width = wide ? LINE_BYTES : LINE_BYTES / 2;
    for (int64_t i = 0; i < pairs; i++) memcpy(filled[i], lines + i * LINE_BYTES, (size_t)width);
    if (wide) multiply_block(BFLOAT16_PAIRS, 1, ends, sizeof ends[0], filled, CACHE_LINE, LINE_BYTES);
    else multiply_block(BFLOAT16_PAIRS, 0, ends, sizeof ends[0], filled, CACHE_LINE, LINE_BYTES);
}

INLINE void multiply_pairs(int wide, int64_t rows, int64_t k, const uint16_t *x, int64_t x_stride,
                           const unsigned char *panel, float *c, int accumulate, look_ahead *ahead) {
    const int64_t blocks = k / BLOCK_VALUES, c_stride = PANEL * sizeof *c;
    if (accumulate) load_tiles(wide, c, CACHE_LINE, c_stride);
    else clear_tiles();
    for (int64_t b = 0; b < blocks; b++) {
        const unsigned char *next = NULL;
        if (!wide || !asks_for_lines(ahead)) ask_for_block(BLOCK_LINES, ahead);
        else next = ahead->next, ahead->next += BLOCK_LINES * LINE_BYTES;
        multiply_block_ahead(BFLOAT16_PAIRS, wide, x + b * BLOCK_VALUES, x_stride * (int64_t)sizeof *x,
                             panel + b * BLOCK_LINES * LINE_BYTES, CACHE_LINE, LINE_BYTES, next);
    }
    if (k % BLOCK_VALUES)
        multiply_last_pairs(wide, rows, k % BLOCK_VALUES, x + blocks * BLOCK_VALUES, x_stride,
                            panel + blocks * BLOCK_LINES * LINE_BYTES);
    store_tiles(wide, c, CACHE_LINE, c_stride);
}

/* c[rows][PANEL] = (accumulate: +=) x[rows][k] panel, for 1 to AMX_ROWS rows for which the tiles are configured. k
 * counts from a multiple of BLOCK_VALUES of the row; x_stride is in elements. */
INLINE void amx_product(int64_t rows, int64_t k, const uint16_t *x, int64_t x_stride, const void *panel, float *c,
                        int accumulate, look_ahead ahead) {
    if (is_wide(rows)) {
        multiply_pairs(1, rows, k, x, x_stride, panel, c, accumulate, &ahead);
        return;
    }
    for (int64_t column = 0; column < PANEL; column += PANEL / 2)
        multiply_pairs(0, rows, k, x, x_stride, (const unsigned char *)panel + column * 4, c + column, accumulate,
                       &ahead);
}

#endif
