/* y = x w': rows of integers against integer weights packed in panels (panels.h, qtile.h). */
#ifndef INFLIGHT_QLINEAR_H
#define INFLIGHT_QLINEAR_H

#include "linear.h"
#include "qtile.h"

/* silu(gate) * up of a tile when `gated`, as in linear.h; y is float32. */
typedef struct {
    quantized_shape shape;
    int64_t n, rows;
    const void *x;
    const float *x_scale;
    const void *weight;
    const float *bias; /* NULL: none */
    float *y;
    int gated;
} quantized_product;

/* A whole panel goes straight to y; of gated or fewer columns the tile is made beside it first. */
INLINE void multiply_rows(quantized_product m, const panel_piece *piece, int64_t row, int64_t tokens,
                          look_ahead ahead) {
    const int64_t column = piece->panel * PANEL;
    const int direct = !m.gated && column + PANEL <= m.n;
    panel_tile tile;
    tile_output out = {m.x_scale + row, NULL, tile[0], PANEL};
    if (direct) out = (tile_output){out.x_scale, m.bias ? m.bias + column : NULL, m.y + row * m.n + column, m.n};
    quantized_tile(m.shape, tokens, quantized_at(m.shape.row, m.x, row), piece->columns, ahead, out);
    if (m.gated) store_gated(F32, tile, tokens, m.n, column / 2, m.y + row * m.n);
    else if (!direct) store_linear(tile, tokens, m.n, column, m.bias, m.y + row * m.n);
}

INLINE void quantized_multiply(pool *p, int thread, quantized_product m) {
    const int64_t panels = ceil_div(m.n, m.gated ? PANEL / 2 : PANEL), bytes = quantized_panel_bytes(m.shape);
    const int64_t steps = ceil_div(m.shape.row.width, step_values(m.shape));
    panel_piece piece;
    while (take_panel(p, thread, panels, bytes, m.rows, m.weight, &piece)) {
        const int64_t tiles = ceil_div(piece.count, tile_tokens(m.shape));
        for (int64_t i = 0; i < tiles; i++) {
            const int64_t first = piece.count * i / tiles, end = piece.count * (i + 1) / tiles;
            look_ahead ahead = tile_look_ahead(piece.columns, piece.next, ceil_div(bytes, steps), steps, i, tiles);
            multiply_rows(m, &piece, piece.first + first, end - first, ahead);
        }
    }
}

/* y [rows][n] float32 = x [rows][k] w' + bias (may be NULL) */
INLINE void quantized_linear(pool *p, int thread, quantized_shape q, int64_t n, int64_t rows, const void *x,
                             const float *x_scale, const void *weight, const float *bias, float *y) {
    quantized_multiply(p, thread, (quantized_product){q, n, rows, x, x_scale, weight, bias, y, 0});
}

/* y [rows][n] float32 = silu(x gate') * (x up') */
INLINE void quantized_gated_linear(pool *p, int thread, quantized_shape q, int64_t n, int64_t rows, const void *x,
                                   const float *x_scale, const void *weight, float *y) {
    quantized_multiply(p, thread, (quantized_product){q, n, rows, x, x_scale, weight, NULL, y, 1});
}

#endif
