/* y = x w': rows of activations against floating-point weights packed in panels (panels.h).
 *
 * Long rows are multiplied a stretch of k at a time, their sums resting in float32 between two stretches: each sum
 * stays one chain, and the stretch that is being read and the next one fit the second-level cache together. */
#ifndef INFLIGHT_LINEAR_H
#define INFLIGHT_LINEAR_H

#include "activation.h"
#include "panels.h"
#include "row_sums.h"

#if defined(__AMX_BF16__)
#include "amx_tile.h"
#endif

#define STRETCH_BYTES (288 << 10)
/* Tiles of AMX that pass over a panel more than once read it faster than the second-level cache gives it: a stretch, the
 * rows beside it and their sums fit the first. */
#define TILE_STRETCH_BYTES (24 << 10)

/* activation(gate) * up of a tile when there is a `gate`: then a panel holds 32 columns of each, 16 of the gate, 16 of
 * up, in turn, and so does its part of the bias. */
typedef struct {
    element type;
    int64_t k, n, rows;
    const void *x, *weight;
    const float *bias, *residual; /* NULL: none */
    void *y;
    activation gate; /* NO_ACTIVATION: the product itself */
    int64_t x_stride, y_stride; /* elements from a row to the next; 0: k and n */
    const row_sums *into;       /* in place of y; NULL: none */
} product;

INLINE int64_t x_stride(product m) { return m.x_stride ? m.x_stride : m.k; }
INLINE int64_t y_stride(product m) { return m.y_stride ? m.y_stride : m.n; }

INLINE int64_t panel_bytes(element type, int64_t k) { return round_up(k, group_of(type)) * PANEL * element_size(type); }

/* One tile of residual + (x w' + bias), or of what there is of it, to y[rows][n], float32, rows `stride` apart. The
 * packed bias is float32 and as wide as the panels; the residual lies as y does, perhaps in the same memory. */
INLINE void store_linear(const panel_tile tile, int64_t rows, int64_t n, int64_t stride, int64_t column,
                         const float *bias, const float *residual, float *y) {
    int64_t width = min_int(PANEL, n - column);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < PANEL; c += LANES) {
            f32x16 value = load16(F32, tile[r], c);
            const int64_t at_y = r * stride + column + c;
            if (bias) value += load16(F32, bias, column + c);
            if (c + LANES <= width) {
                if (residual) value += load16(F32, residual, at_y);
                store16(F32, y, at_y, value);
            } else if (c < width) {
                if (residual) value += load_part(F32, residual, at_y, width - c);
                store_part(F32, y, at_y, width - c, value);
            }
        }
    }
}

/* One tile of activation(gate) * up to y[rows][n]; `bias` is the panel's own. */
INLINE void store_gated(element type, activation gate, const panel_tile tile, int64_t rows, int64_t n, int64_t column,
                        const float *bias, void *y) {
    int64_t width = min_int(PANEL / 2, n - column);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < PANEL / 2; c += LANES) {
            f32x16 first = load16(F32, tile[r], 2 * c), up = load16(F32, tile[r], 2 * c + LANES);
            if (bias) first += load16(F32, bias, 2 * c), up += load16(F32, bias, 2 * c + LANES);
            f32x16 value = gated16(gate, first, up);
            if (c + LANES <= width) store16(type, y, r * n + column + c, value);
            else if (c < width) store_part(type, y, r * n + column + c, width - c, value);
        }
    }
}

INLINE void store_tile(product m, const panel_tile tile, int64_t row, int64_t rows, int64_t panel) {
    const element act = act_type(m.type);
    if (m.into)
        add_to_sums(m.into, tile, row, rows, m.bias ? m.bias + panel * PANEL : NULL);
    else if (m.gate)
        store_gated(act, m.gate, tile, rows, m.n, panel * (PANEL / 2), m.bias ? m.bias + panel * PANEL : NULL,
                    at(act, m.y, row * m.n));
    else
        store_linear(tile, rows, m.n, y_stride(m), panel * PANEL, m.bias, m.residual ? m.residual + row * m.n : NULL,
                     (float *)m.y + row * y_stride(m));
}

/* The lines of the residual that a tile will be added to, while it is computed. */
INLINE void ask_for_residual(product m, int64_t row, int64_t rows, int64_t panel) {
    const float *residual = m.residual + row * m.n + panel * PANEL;
    for (int64_t r = 0; r < rows; r++)
        UNROLL for (int64_t c = 0; c < PANEL; c += LANES) __builtin_prefetch(residual + r * m.n + c, 1, 3);
}

/* The lines of a panel's bias, which lie elsewhere, while the panel is multiplied. */
INLINE void ask_for_bias(const float *bias, int64_t panel) {
    if (!bias) return;
    UNROLL for (int64_t c = 0; c < PANEL; c += LANES) __builtin_prefetch(bias + panel * PANEL + c, 0, 3);
}

INLINE int64_t stretches(product m) {
#if defined(__AMX_BF16__)
    if (m.type == BF16 && !is_wide(m.rows)) return ceil_div(panel_bytes(m.type, m.k), TILE_STRETCH_BYTES);
#endif
    return ceil_div(panel_bytes(m.type, m.k), STRETCH_BYTES);
}

/* The first k of a stretch: whole groups, or whole blocks where a product takes blocks. */
INLINE int64_t stretch_start(product m, int64_t index) {
#if defined(__AMX_BF16__)
    const int64_t group = m.type == BF16 ? BLOCK_VALUES : group_of(m.type);
#else
    const int64_t group = group_of(m.type);
#endif
    return min_int(m.k, ceil_div(m.k, group) * index / stretches(m) * group);
}

/* A tile of a panel, for 1 to TILE_ROWS rows: one function for each type, which every product of an engine calls. The
 * compiler would else take a second for the tiles of each. */
#define PANEL_PRODUCT(name, type)                                                                                      \
    NOINLINE void name(int64_t rows, int64_t k, const void *x, int64_t x_stride, const void *columns, float *tile,     \
                       int accumulate, look_ahead ahead) {                                                             \
        tile_product_ahead(type, rows, PANEL, k, x, x_stride, columns, PANEL * group_of(type), tile, PANEL,            \
                           accumulate, ahead);                                                                         \
    }
PANEL_PRODUCT(panel_product_f32, F32)
PANEL_PRODUCT(panel_product_f16, F16)
PANEL_PRODUCT(panel_product_bf16, BF16)

INLINE void panel_product(element type, int64_t rows, int64_t k, const void *x, int64_t x_stride, const void *columns,
                          float *tile, int accumulate, look_ahead ahead) {
    if (type == F32) panel_product_f32(rows, k, x, x_stride, columns, tile, accumulate, ahead);
    else if (type == F16) panel_product_f16(rows, k, x, x_stride, columns, tile, accumulate, ahead);
    else panel_product_bf16(rows, k, x, x_stride, columns, tile, accumulate, ahead);
}

INLINE void multiply_stretch(product m, panel_piece piece, int64_t index, panel_tile *sums) {
    const int64_t start = stretch_start(m, index), end = stretch_start(m, index + 1), group = group_of(m.type);
    const int64_t tiles = ceil_div(piece.count, TILE_ROWS), last = index + 1 == stretches(m);
    const void *columns = at(m.type, piece.columns, start * PANEL);
    const void *next = last ? next_panel(&piece) : at(m.type, piece.columns, end * PANEL);
    if (!last && piece.count < m.rows) next = NULL; /* many rows: the hardware is in time, and asking costs more */
    for (int64_t i = 0; i < tiles; i++) {
        int64_t first = tile_start(piece.count, i), row = piece.first + first;
        int64_t height = tile_start(piece.count, i + 1) - first;
        float *tile = sums[stretches(m) == 1 ? 0 : i][0];
        look_ahead ahead = tile_look_ahead(columns, next, PANEL * group * element_size(m.type),
                                           ceil_div(end - start, group), i, tiles);
        const void *x = at(act_type(m.type), m.x, row * x_stride(m) + start);
        if (last && m.residual) ask_for_residual(m, row, height, piece.panel);
        panel_product(m.type, height, end - start, x, x_stride(m), columns, tile, index > 0, ahead);
        if (last) store_tile(m, (const float(*)[PANEL])tile, row, height, piece.panel);
    }
}

#if defined(__AMX_BF16__)
/* What is prefetched while a stretch is multiplied that begins at `start`: as many bytes a panel or STRETCH_BYTES behind
 * it. Of a longer panel that many rows meet, nothing but the next one's begin. */
INLINE const void *stretch_ahead(product m, const panel_piece *piece, int64_t start) {
    const int64_t bytes = panel_bytes(m.type, m.k);
    const int64_t behind = start * PANEL * element_size(m.type) + bytes / ceil_div(bytes, STRETCH_BYTES);
    if (behind >= bytes) return piece->following ? (const unsigned char *)piece->following + behind - bytes : NULL;
    return piece->count < m.rows ? NULL : (const unsigned char *)piece->columns + behind;
}

/* As multiply_stretch, in tiles of AMX; `sums` are BLOCK_ROWS rows. */
INLINE void multiply_amx_stretch(product m, panel_piece piece, int64_t index, float (*sums)[PANEL]) {
    const int64_t start = stretch_start(m, index), end = stretch_start(m, index + 1), group = group_of(m.type);
    const int64_t tiles = ceil_div(piece.count, AMX_ROWS), height = amx_height(piece.count, AMX_ROWS);
    const int last = index + 1 == stretches(m);
    const void *columns = at(m.type, piece.columns, start * PANEL);
    const void *next = stretch_ahead(m, &piece, start);
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t row = piece.first + amx_tile_start(piece.count, height, i);
        const int64_t again = amx_rows_again(piece.count, height, i);
        float(*tile)[PANEL] = sums + (stretches(m) == 1 ? 0 : i * AMX_ROWS);
        look_ahead ahead = amx_look_ahead(columns, next, LINE_BYTES, ceil_div(end - start, group),
                                          piece.block * tiles + i, piece.blocks * tiles, height);
        if (last && m.residual) ask_for_residual(m, row, height, piece.panel);
        amx_product(height, end - start, at(BF16, m.x, row * x_stride(m) + start), x_stride(m), columns, tile[0],
                    index > 0, ahead);
        if (last) store_tile(m, (const float(*)[PANEL])tile + again, row + again, height - again, piece.panel);
    }
}

#endif

/* What a thread keeps from piece to piece: the sums of a block of rows, and the height for which tiles of AMX are
 * configured (0: for none). */
typedef struct {
    _Alignas(64) panel_tile sums[BLOCK_ROWS / TILE_ROWS];
    int64_t configured;
} product_work;

/* One piece. bfloat16 in tiles of AMX, whatever the number of rows: their sums are not those of vectors. */
INLINE void multiply_piece(product m, panel_piece piece, product_work *work) {
    ask_for_bias(m.bias, piece.panel);
#if defined(__AMX_BF16__)
    if (m.type == BF16) {
        configure_tiles(amx_height(piece.count, AMX_ROWS), BLOCK_BYTES, &work->configured);
        for (int64_t i = 0; i < stretches(m); i++) multiply_amx_stretch(m, piece, i, work->sums[0]);
        return;
    }
#endif
    for (int64_t i = 0; i < stretches(m); i++) multiply_stretch(m, piece, i, work->sums);
}

/* Behind the last piece. */
INLINE void end_pieces(product_work *work) {
#if defined(__AMX_BF16__)
    release_tiles(work->configured);
#endif
    work->configured = 0;
}

INLINE int64_t panels_of(product m) { return ceil_div(m.n, m.gate ? PANEL / 2 : PANEL); }

INLINE void multiply(pool *p, int thread, product m) {
    const int64_t row_bytes = m.k * element_size(act_type(m.type));
    panel_piece piece;
    product_work work;
    work.configured = 0;
    while (take_panel(p, thread, panels_of(m), panel_bytes(m.type, m.k), m.rows, row_bytes, m.weight, &piece))
        multiply_piece(m, piece, &work);
    end_pieces(&work);
}

/* y [rows][n] float32 = residual + (x [rows][k] w' + bias); bias and residual may be NULL, y may be the residual */
INLINE void linear(pool *p, int thread, element type, int64_t k, int64_t n, int64_t rows, const void *x,
                   const void *weight, const float *bias, const float *residual, float *y) {
    multiply(p, thread, (product){type, k, n, rows, x, weight, bias, residual, y, NO_ACTIVATION});
}

/* y [rows][n] act = gate(x gate' + its bias) * (x up' + its bias) */
INLINE void gated_linear(pool *p, int thread, element type, activation gate, int64_t k, int64_t n, int64_t rows,
                         const void *x, const void *weight, const float *bias, void *y) {
    multiply(p, thread, (product){type, k, n, rows, x, weight, bias, NULL, y, gate});
}

#endif
