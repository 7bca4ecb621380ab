/* Products with E4M3 weights packed in panels, which float8_rows.h's rows meet.
 *
 * For each group of k (an even number of them, or all) a panel holds the scales of its 64 columns, float32, and then
 * its weights, one byte each, by pairs of k: [ceil(k / 2)][64][2] bytes, a missing last k as zero. They are widened in
 * registers, or, where several tiles meet them, into a piece of memory that stays in the cache; the sums of a group are
 * those of bfloat16 either way (tile.h), one chain over k, and groups are added up from first to last, so a row's bits
 * do not depend on its company. */
#ifndef INFLIGHT_FLOAT8_H
#define INFLIGHT_FLOAT8_H

#include "float8_rows.h"
#include "linear.h"

#define WIDENED_VALUES 256 /* of k, at a time; whole blocks of AMX */
#define PAIR_BYTES (2 * PANEL)
#define WIDE_PAIR_BYTES (2 * PAIR_BYTES)

/* `group` of k share a scale. */
typedef struct {
    int64_t k, group;
} float8_shape;

typedef struct {
    float8_shape shape;
    int64_t n, rows;
    const uint16_t *x;
    const float *x_scale;
    const void *weight;
    const float *bias, *residual; /* NULL: none */
    float *y;
    activation gate; /* NO_ACTIVATION: no gated product */
    const row_sums *into; /* in place of y; NULL: none */
} float8_product;

INLINE int64_t float8_scale_bytes(void) { return PANEL * (int64_t)sizeof(float); }
INLINE int64_t float8_panel_bytes(float8_shape s) {
    return ceil_div(s.k, s.group) * float8_scale_bytes() + ceil_div(s.k, 2) * PAIR_BYTES;
}
/* Where the weights of k lie in a panel, and the scales of its group; k is even. */
INLINE int64_t float8_weights_at(float8_shape s, int64_t k) {
    return (k / s.group + 1) * float8_scale_bytes() + k / 2 * PAIR_BYTES;
}
INLINE const float *float8_scales(float8_shape s, const unsigned char *panel, int64_t k) {
    const int64_t start = k / s.group * s.group;
    return (const float *)(panel + float8_weights_at(s, start) - float8_scale_bytes());
}

#define NEAR_AHEAD 1024 /* bytes, into the first-level cache, whose misses would hold up the many instructions here */

/* Of a `stream` (panels.h) each line that is read asks for one further on, and once more for one that comes soon. */
INLINE void widen_pairs(const unsigned char *bytes, int64_t pairs, unsigned char *wide, int stream) {
    for (int64_t i = 0; i < pairs; i++, bytes += PAIR_BYTES) {
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
            const unsigned char *read = bytes + v * PAIR_BYTES / TILE_VECTORS;
            if (stream && v % 2 == 0) {
                __builtin_prefetch(read + STREAM_AHEAD, 0, 2);
                __builtin_prefetch(read + NEAR_AHEAD, 0, 3);
            }
            const u32x16 values = e4m3_pairs(read);
            memcpy(wide + i * WIDE_PAIR_BYTES + v * sizeof values, &values, sizeof values);
        }
    }
}

/* The sums of a tile over a group times the scales of its columns: the first of them, or added to those before. */
INLINE void add_float8_group(const float *scales, float (*sums)[PANEL], int64_t rows, int first, float (*tile)[PANEL]) {
    for (int64_t r = 0; r < rows; r++) {
        UNROLL for (int64_t c = 0; c < PANEL; c += LANES) {
            const f32x16 sum = load16(F32, sums[r], c), scale = load16(F32, scales, c);
            store16(F32, tile[r], c, first ? sum * scale : fma16(sum, scale, load16(F32, tile[r], c)));
        }
    }
}

/* y of a tile: its sums times the scales of the rows, then as in linear.h. */
INLINE void store_float8_tile(float8_product m, float (*tile)[PANEL], int64_t row, int64_t rows, int64_t panel) {
    for (int64_t r = 0; r < rows; r++)
        UNROLL for (int64_t c = 0; c < PANEL; c += LANES)
            store16(F32, tile[r], c, load16(F32, tile[r], c) * m.x_scale[row + r]);
    const float *residual = m.residual ? m.residual + row * m.n : NULL;
    const float *bias = m.bias ? m.bias + panel * PANEL : NULL; /* the panel's own */
    if (m.into)
        add_to_sums(m.into, (const float(*)[PANEL])tile, row, rows, bias);
    else if (m.gate)
        store_gated(F32, m.gate, (const float(*)[PANEL])tile, rows, m.n, panel * (PANEL / 2), bias, m.y + row * m.n);
    else
        store_linear((const float(*)[PANEL])tile, rows, m.n, m.n, panel * PANEL, m.bias, residual,
                     m.y + row * m.n);
}

#if !defined(__AMX_BF16__)
/* Rows of one tile: weights are widened in registers. */
INLINE void multiply_float8_tile(float8_product m, const panel_piece *piece) {
    const unsigned char *panel = piece->columns;
    const uint16_t *x = m.x + piece->first * m.shape.k;
    float tile[TILE_ROWS][PANEL], sums[TILE_ROWS][PANEL];
    for (int64_t start = 0; start < m.shape.k; start += m.shape.group) {
        const int64_t values = min_int(m.shape.group, m.shape.k - start);
        const unsigned char *bytes = panel + float8_weights_at(m.shape, start);
        const int64_t distance = piece->count == 1 ? STREAM_AHEAD : 4 * STREAM_AHEAD;
        const look_ahead ahead = {bytes + distance, PAIR_BYTES};
        tile_product_ahead(E4M3, piece->count, PANEL, values, x + start, m.shape.k, bytes, 2 * PANEL, sums[0], PANEL, 0,
                           ahead);
        add_float8_group(float8_scales(m.shape, panel, start), sums, piece->count, start == 0, tile);
    }
    store_float8_tile(m, tile, piece->first, piece->count, piece->panel);
}
#endif

/* Tiles of a piece, as its product cuts it: of vectors, or of AMX, where the last may begin early (amx.h). */
#if defined(__AMX_BF16__)
#define WIDE_TILE_ROWS AMX_ROWS
INLINE int64_t wide_tile_height(int64_t count) { return amx_height(count, AMX_ROWS); }
INLINE int64_t wide_tile_start(int64_t count, int64_t index) {
    return amx_tile_start(count, wide_tile_height(count), index);
}
INLINE int64_t wide_tile_rows(int64_t count, int64_t index) {
    (void)index;
    return wide_tile_height(count);
}
#else
#define WIDE_TILE_ROWS TILE_ROWS
INLINE int64_t wide_tile_start(int64_t count, int64_t index) { return tile_start(count, index); }
INLINE int64_t wide_tile_rows(int64_t count, int64_t index) {
    return tile_start(count, index + 1) - tile_start(count, index);
}
#endif

/* tile [rows][PANEL] = (accumulate: +=) x [rows][k] times widened pairs. */
INLINE void multiply_wide(int64_t rows, int64_t k, const uint16_t *x, int64_t x_stride, const void *wide, float *tile,
                          int accumulate, look_ahead ahead) {
#if defined(__AMX_BF16__)
    amx_product(rows, k, x, x_stride, wide, tile, accumulate, ahead);
#else
    tile_product_ahead(BF16, rows, PANEL, k, x, x_stride, wide, 2 * PANEL, tile, PANEL, accumulate, ahead);
#endif
}

#if defined(__AMX_BF16__)
/* Rows of one wide tile, which are read as fast as they are multiplied: a block is widened and multiplied before the
 * next one, while sums stay in their tiles. Neither what is widened nor what is read leaves the first-level cache so. */
INLINE void multiply_float8_blocks(float8_product m, const panel_piece *piece) {
    _Alignas(64) unsigned char wide[2][BLOCK_LINES * WIDE_PAIR_BYTES];
    _Alignas(64) float sums[AMX_HEIGHT][PANEL], tile[AMX_HEIGHT][PANEL];
    const int64_t x_stride = m.shape.k * (int64_t)sizeof *m.x;
    for (int64_t start = 0; start < m.shape.k; start += m.shape.group) {
        const int64_t values = min_int(m.shape.group, m.shape.k - start), blocks = values / BLOCK_VALUES;
        const unsigned char *bytes = (const unsigned char *)piece->columns + float8_weights_at(m.shape, start);
        const uint16_t *x = m.x + piece->first * m.shape.k + start;
        clear_tiles();
        for (int64_t b = 0; b < blocks; b++, bytes += BLOCK_LINES * PAIR_BYTES) {
            widen_pairs(bytes, BLOCK_LINES, wide[b % 2], 1);
            multiply_block(BFLOAT16_PAIRS, 1, x + b * BLOCK_VALUES, x_stride, wide[b % 2], CACHE_LINE, LINE_BYTES);
        }
        if (values % BLOCK_VALUES) {
            widen_pairs(bytes, ceil_div(values % BLOCK_VALUES, 2), wide[0], 1);
            multiply_last_pairs(1, piece->count, values % BLOCK_VALUES, x + blocks * BLOCK_VALUES, m.shape.k, wide[0]);
        }
        store_tiles(1, sums, CACHE_LINE, sizeof sums[0]);
        add_float8_group(float8_scales(m.shape, piece->columns, start), sums, piece->count, start == 0, tile);
    }
    store_float8_tile(m, tile, piece->first, piece->count, piece->panel);
}
#endif

/* A stretch of k, within a group, is widened once for all tiles; meanwhile they ask for the same stretch of the next
 * panel. */
INLINE void multiply_float8_piece(float8_product m, const panel_piece *piece) {
    _Alignas(64) unsigned char wide[WIDENED_VALUES / 2 * WIDE_PAIR_BYTES];
    _Alignas(64) float sums[BLOCK_ROWS][PANEL], groups[BLOCK_ROWS][PANEL];
    const int64_t tiles = ceil_div(piece->count, WIDE_TILE_ROWS), group = m.shape.group;
    for (int64_t start = 0, values; start < m.shape.k; start += values) {
        const int64_t end = min_int(m.shape.k, (start / group + 1) * group);
        const int64_t at_start = float8_weights_at(m.shape, start);
        const unsigned char *panel = piece->columns, *following = next_panel(piece);
        const unsigned char *next = following ? following + at_start : NULL;
        values = min_int(WIDENED_VALUES, end - start);
        const int64_t pairs = ceil_div(values, 2);
        widen_pairs(panel + at_start, pairs, wide, 0);
        for (int64_t i = 0; i < tiles; i++) {
            const int64_t row = piece->first + wide_tile_start(piece->count, i);
            const look_ahead shared = tiles == 1 ? (look_ahead){next, next ? PAIR_BYTES : 0}
                                                 : tile_look_ahead(NULL, next, PAIR_BYTES, pairs, i, tiles);
            const int64_t rows = wide_tile_rows(piece->count, i), first = i * WIDE_TILE_ROWS;
            multiply_wide(rows, values, m.x + row * m.shape.k + start, m.shape.k, wide, sums[first],
                          start % group > 0, shared);
            if (start + values == end)
                add_float8_group(float8_scales(m.shape, panel, start), sums + first, rows, start < group,
                                 groups + first);
        }
    }
    for (int64_t i = 0, stored = 0; i < tiles; i++) {
        const int64_t first = wide_tile_start(piece->count, i), end = first + wide_tile_rows(piece->count, i);
        store_float8_tile(m, groups + i * WIDE_TILE_ROWS + (stored - first), piece->first + stored, end - stored,
                          piece->panel);
        stored = end;
    }
}

/* One piece; `configured` is the height for which tiles of AMX are configured, 0 before the first. */
INLINE void multiply_float8(float8_product m, const panel_piece *piece, int64_t *configured) {
#if defined(__AMX_BF16__)
    configure_tiles(wide_tile_height(piece->count), BLOCK_BYTES, configured);
    if (is_wide(piece->count)) {
        multiply_float8_blocks(m, piece);
        return;
    }
#else
    (void)configured;
    if (piece->count <= TILE_ROWS) {
        multiply_float8_tile(m, piece);
        return;
    }
#endif
    multiply_float8_piece(m, piece);
}

/* Behind the last piece. */
INLINE void end_float8_pieces(int64_t configured) {
#if defined(__AMX_BF16__)
    release_tiles(configured);
#else
    (void)configured;
#endif
}

INLINE int64_t float8_panels_of(float8_product m) { return ceil_div(m.n, m.gate ? PANEL / 2 : PANEL); }

INLINE void float8_multiply(pool *p, int thread, float8_product m) {
    panel_piece piece;
    int64_t configured = 0;
    while (take_panel(p, thread, float8_panels_of(m), float8_panel_bytes(m.shape), m.rows,
                      m.shape.k * (int64_t)sizeof *m.x, m.weight, &piece))
        multiply_float8(m, &piece, &configured);
    end_float8_pieces(configured);
}

/* y [rows][n] float32 = residual + (x [rows][k] w' + bias); bias and residual may be NULL, y may be the residual */
INLINE void float8_linear(pool *p, int thread, float8_shape shape, int64_t n, int64_t rows, const void *x,
                          const float *x_scale, const void *weight, const float *bias, const float *residual,
                          float *y) {
    float8_multiply(p, thread,
                    (float8_product){shape, n, rows, x, x_scale, weight, bias, residual, y, NO_ACTIVATION, NULL});
}

/* y [rows][n] float32 = gate(x gate' + its bias) * (x up' + its bias) */
INLINE void float8_gated_linear(pool *p, int thread, float8_shape shape, activation gate, int64_t n, int64_t rows,
                                const void *x, const float *x_scale, const void *weight, const float *bias, float *y) {
    float8_multiply(p, thread, (float8_product){shape, n, rows, x, x_scale, weight, bias, NULL, y, gate, NULL});
}

#endif
