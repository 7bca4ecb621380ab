/* y = x w': rows of integers against integer weights packed in panels (qtile.h). */
#ifndef INFLIGHT_QLINEAR_H
#define INFLIGHT_QLINEAR_H

#include "qtile.h"

/* The next piece of this operator; 0 when there is none left. */
INLINE int take_quantized_piece(pool *p, quantized_shape q, int64_t panels, int64_t rows, const void *weight,
                                panel_piece *piece) {
    int64_t blocks = row_blocks(p, rows, panels), item = pool_take(p);
    if (rows == 0 || item >= panels * blocks) return 0;
    int64_t block = item % blocks;
    piece->panel = item / blocks;
    piece->first = rows * block / blocks;
    piece->count = rows * (block + 1) / blocks - piece->first;
    piece->columns = (const unsigned char *)weight + piece->panel * quantized_panel_bytes(q);
    return 1;
}

/* One tile with the scales of its rows. */
INLINE void scaled_tile(quantized_shape q, int64_t tokens, const int8_t *x, const float *x_scale, const void *panel,
                        panel_tile tile) {
    quantized_multiply(q, tokens, x, panel, tile);
    for (int64_t r = 0; r < tokens; r++)
        for (int64_t c = 0; c < PANEL; c += LANES) store16(F32, tile[r], c, load16(F32, tile[r], c) * x_scale[r]);
}

/* y [rows][n] float32 = x [rows][k] w' + bias (may be NULL) */
INLINE void quantized_linear(pool *p, int thread, quantized_shape q, int64_t n, int64_t rows, const void *x,
                             const float *x_scale, const void *weight, const float *bias, float *y) {
    (void)thread;
    panel_piece piece;
    while (take_quantized_piece(p, q, ceil_div(n, PANEL), rows, weight, &piece)) {
        const int64_t tiles = ceil_div(piece.count, tile_tokens(q));
        for (int64_t i = 0; i < tiles; i++) {
            int64_t row = piece.first + piece.count * i / tiles, end = piece.first + piece.count * (i + 1) / tiles;
            panel_tile tile;
            scaled_tile(q, end - row, quantized_at(q.row, x, row), x_scale + row, piece.columns, tile);
            store_linear(tile, end - row, n, piece.panel * PANEL, bias, y + row * n);
        }
    }
}

/* y [rows][n] float32 = silu(x gate') * (x up') */
INLINE void quantized_gated_linear(pool *p, int thread, quantized_shape q, int64_t n, int64_t rows, const void *x,
                                   const float *x_scale, const void *weight, float *y) {
    (void)thread;
    panel_piece piece;
    while (take_quantized_piece(p, q, ceil_div(n, PANEL / 2), rows, weight, &piece)) {
        const int64_t tiles = ceil_div(piece.count, tile_tokens(q));
        for (int64_t i = 0; i < tiles; i++) {
            int64_t row = piece.first + piece.count * i / tiles, end = piece.first + piece.count * (i + 1) / tiles;
            panel_tile tile;
            scaled_tile(q, end - row, quantized_at(q.row, x, row), x_scale + row, piece.columns, tile);
            store_gated(F32, tile, end - row, n, piece.panel * (PANEL / 2), y + row * n);
        }
    }
}

#endif
