/* y = x w': rows of activations against weights packed in panels of 64 output columns.
 *
 * A panel holds its columns for every k, group by group (tile.h), so one thread keeps a panel in its cache while the
 * rows stream past. The last panel is filled with zero columns. A piece of work is one panel and a block of rows. */
#ifndef INFLIGHT_LINEAR_H
#define INFLIGHT_LINEAR_H

#include "pool.h"
#include "tile.h"

#define PANEL 64

typedef float panel_tile[TILE_ROWS][PANEL];

/* The products of up to TILE_ROWS rows with one panel. */
INLINE void panel_multiply(element type, int64_t rows, int64_t k, const void *x, const void *panel, panel_tile out) {
    tile_product(type, rows, PANEL, k, x, k, panel, PANEL * group_of(type), out[0], PANEL, 0);
}

/* How the rows are cut: as few blocks as keep every thread busy, none so small that a panel is loaded in vain. */
INLINE int64_t row_blocks(const pool *p, int64_t rows, int64_t panels) {
    int64_t wanted = ceil_div(4 * p->threads, panels);
    return max_int(1, min_int(wanted, rows / (4 * TILE_ROWS)));
}

INLINE int64_t panel_bytes(element type, int64_t k) { return round_up(k, group_of(type)) * PANEL * element_size(type); }

/* One tile of x w' (+ bias) to y[rows][n], float32. The packed bias is float32 and as wide as the panels. */
INLINE void store_linear(const panel_tile tile, int64_t rows, int64_t n, int64_t column, const float *bias, float *y) {
    int64_t width = min_int(PANEL, n - column);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < PANEL; c += LANES) {
            f32x16 value = load16(F32, tile[r], c);
            if (bias) value += load16(F32, bias, column + c);
            if (c + LANES <= width) store16(F32, y, r * n + column + c, value);
            else if (c < width) store_part(F32, y, r * n + column + c, width - c, value);
        }
    }
}

/* One tile of silu(gate) * up to y[rows][n]. A panel holds 32 columns of each, 16 of the gate, 16 of up, in turn. */
INLINE void store_gated(element type, const panel_tile tile, int64_t rows, int64_t n, int64_t column, void *y) {
    int64_t width = min_int(PANEL / 2, n - column);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < PANEL / 2; c += LANES) {
            f32x16 value = silu16(load16(F32, tile[r], 2 * c)) * load16(F32, tile[r], 2 * c + LANES);
            if (c + LANES <= width) store16(type, y, r * n + column + c, value);
            else if (c < width) store_part(type, y, r * n + column + c, width - c, value);
        }
    }
}

typedef struct {
    int64_t panel, first, count; /* one panel, and the rows it meets */
    const void *columns;
} panel_piece;

/* The next piece of this operator; 0 when there is none left. */
INLINE int take_piece(pool *p, element type, int64_t k, int64_t panels, int64_t rows, const void *weight,
                      panel_piece *piece) {
    int64_t blocks = row_blocks(p, rows, panels), item = pool_take(p);
    if (rows == 0 || item >= panels * blocks) return 0;
    int64_t block = item % blocks;
    piece->panel = item / blocks;
    piece->first = rows * block / blocks;
    piece->count = rows * (block + 1) / blocks - piece->first;
    piece->columns = (const unsigned char *)weight + piece->panel * panel_bytes(type, k);
    return 1;
}

/* y [rows][n] float32 = x [rows][k] w' + bias (may be NULL) */
INLINE void linear(pool *p, int thread, element type, int64_t k, int64_t n, int64_t rows, const void *x,
                   const void *weight, const float *bias, float *y) {
    (void)thread;
    panel_piece piece;
    while (take_piece(p, type, k, ceil_div(n, PANEL), rows, weight, &piece)) {
        for (int64_t i = 0; i < ceil_div(piece.count, TILE_ROWS); i++) {
            int64_t start = tile_start(piece.count, i), height = tile_start(piece.count, i + 1) - start;
            int64_t row = piece.first + start;
            panel_tile tile;
            panel_multiply(type, height, k, at(act_type(type), x, row * k), piece.columns, tile);
            store_linear(tile, height, n, piece.panel * PANEL, bias, y + row * n);
        }
    }
}

/* y [rows][n] act = silu(x gate') * (x up') */
INLINE void gated_linear(pool *p, int thread, element type, int64_t k, int64_t n, int64_t rows, const void *x,
                         const void *weight, void *y) {
    const element act = act_type(type);
    (void)thread;
    panel_piece piece;
    while (take_piece(p, type, k, ceil_div(n, PANEL / 2), rows, weight, &piece)) {
        for (int64_t i = 0; i < ceil_div(piece.count, TILE_ROWS); i++) {
            int64_t start = tile_start(piece.count, i), height = tile_start(piece.count, i + 1) - start;
            int64_t row = piece.first + start;
            panel_tile tile;
            panel_multiply(type, height, k, at(act, x, row * k), piece.columns, tile);
            store_gated(act, tile, height, n, piece.panel * (PANEL / 2), at(act, y, row * n));
        }
    }
}

#endif
