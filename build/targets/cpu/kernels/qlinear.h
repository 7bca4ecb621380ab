/* y = x w': rows of integers against integer weights packed in panels (panels.h, qshape.h). */
#ifndef INFLIGHT_QLINEAR_H
#define INFLIGHT_QLINEAR_H

#include "linear.h"
#include "codebook.h"
#include "multiples.h"

#if defined(__AMX_INT8__)
#include "amx_qtile.h"
#define MOST_DIGIT_ROWS AMX_ROWS
#else
#define MOST_DIGIT_ROWS TILE_ROWS
#endif
#if defined(__AMX_INT8__) || defined(__AVX512VNNI__)
#include "written_tile.h"
#define WRITES_PANELS /* 8-bit weights are multiplied as fast as 4-bit ones */
#endif

/* activation(gate) * up of a tile when there is a `gate`, as in linear.h; y is float32. */
typedef struct {
    quantized_shape shape;
    int64_t n, rows;
    const void *x;
    const float *x_scale;
    const void *weight;
    const float *bias, *residual; /* NULL: none */
    float *y;
    activation gate; /* NO_ACTIVATION: the product itself */
    const row_sums *into; /* in place of y; NULL: none */
} quantized_product;

/* OF_WRITTEN and WRITING: of a panel that is written out, or is written by this tile (written_tile.h). */
typedef enum { OF_VECTORS, OF_WRITTEN, WRITING, OF_AMX } tile_kind;

/* Whether the vectors of a gate and its up are in registers together. */
INLINE int gates_in_registers(quantized_shape q) { return quantized_vectors(q, TILE_ROWS) % 2 == 0; }

/* A whole panel goes straight to y; of fewer columns the tile is made beside it first, and so is one whose first rows
 * are there `again` (amx.h). (One call for both: tiles are most of what the compiler works on.) */
INLINE void multiply_rows(quantized_product m, tile_kind kind, const panel_piece *piece, uint8_t *written,
                          int64_t row, int64_t tokens, int64_t again, look_ahead ahead) {
    const int64_t columns = m.gate ? PANEL / 2 : PANEL, column = piece->panel * columns;
    const int placed = m.into ? kind != OF_AMX : column + columns <= m.n;
    const int direct = placed && !again && (!m.gate || gates_in_registers(m.shape));
    const int8_t *x = quantized_at(m.shape.row, m.x, row);
    const float *residual = m.residual ? m.residual + row * m.n : NULL;
    const float *bias = m.bias ? m.bias + piece->panel * PANEL : NULL;
    float *y = m.y + row * m.n, tile[MOST_DIGIT_ROWS][PANEL];
    tile_output out = {m.x_scale + row, NULL, NULL, tile[0], PANEL, NO_ACTIVATION};
    if (direct)
        out = (tile_output){m.x_scale + row, bias, residual ? residual + column : NULL, y + column, m.n, m.gate,
                            m.into, row, 0};
    (void)kind, (void)written;
#if defined(__AMX_INT8__)
    if (kind == OF_AMX) amx_quantized_tile(m.shape, tokens, x, piece->columns, written, ahead, out);
    else
#elif defined(WRITES_PANELS)
    if (kind != OF_VECTORS)
        written_tile(m.shape, kind == OF_WRITTEN, tokens, x, piece->columns, written, ahead, out);
    else
#endif
        quantized_tile(m.shape, tokens, x, piece->columns, ahead, out);
    if (direct) return;
    if (m.into) {
        add_to_sums(m.into, tile + again, row + again, tokens - again, bias);
        return;
    }
    y += again * m.n;
    if (residual) residual += again * m.n;
    if (m.gate) store_gated(F32, m.gate, tile + again, tokens - again, m.n, column, bias, y);
    else store_linear(tile + again, tokens - again, m.n, m.n, column, m.bias, residual, y);
}

/* A tile alone that passes over its panel more than once cannot prefetch ahead of its own reads; it prefetches the next
 * panel. Otherwise it prefetches whole lines a little ahead of its own reads. */
INLINE look_ahead quantized_look_ahead(quantized_shape q, const panel_piece *piece, int64_t index, int64_t tiles) {
    const int64_t steps = ceil_div(q.row.width, step_values(q)), bytes = ceil_div(quantized_panel_bytes(q), steps);
    const int passes = TILE_VECTORS / quantized_vectors(q, (int)(piece->count * q.row.digits));
    const void *next = next_panel(piece);
    if (tiles == 1 && passes > 1) return (look_ahead){next, next ? bytes : 0};
    if (tiles == 1) return (look_ahead){(const unsigned char *)piece->columns + STREAM_AHEAD, STEP_BYTES};
    return tile_look_ahead(piece->columns, next, bytes, steps, index, tiles);
}

#if defined(__AMX_INT8__)
#define FEW_ROWS 3 /* of digits: groups of multiples cost vectors more than tiles where there are more */

/* Whether so many tokens are multiplied in tiles. */
INLINE int in_tiles(quantized_shape q, int64_t tokens) {
    if (q.codes.digits) return 0;
    return has_multiples(q) ? can_be_written(q) && tokens * q.row.digits > FEW_ROWS : tokens > tile_tokens(q);
}

INLINE void multiply_amx_piece(quantized_product m, const panel_piece *piece, uint8_t *written,
                               int64_t *configured) {
    const int64_t most = AMX_ROWS / m.shape.row.digits, tiles = ceil_div(piece->count, most);
    const int64_t height = amx_height(piece->count, most), rows = height * m.shape.row.digits;
    const int64_t steps = ceil_div(m.shape.row.width, step_values(m.shape));
    const int64_t step_bytes = ceil_div(quantized_panel_bytes(m.shape), steps);
    configure_tiles(rows, amx_block_bytes(m.shape), configured);
    for (int64_t i = 0; i < tiles; i++)
        multiply_rows(m, OF_AMX, piece, written, piece->first + amx_tile_start(piece->count, height, i), height,
                      amx_rows_again(piece->count, height, i),
                      amx_look_ahead(piece->columns, piece->following, step_bytes, steps, piece->block * tiles + i,
                                     piece->blocks * tiles, rows));
}
#endif

/* What a thread keeps from piece to piece: the height for which tiles of AMX are configured, and the panel that is
 * written out in `written`, which has written_bytes. */
typedef struct {
    int64_t configured;
    uint8_t *written;
    const void *held;
} quantized_work;

#if defined(WRITES_PANELS)
#define QUANTIZED_WORK(name, shape)                                                   \
    uint8_t name##_written[written_bytes(shape)] __attribute__((aligned(CACHE_LINE))); \
    quantized_work name = {0, name##_written, NULL}
#else
#define QUANTIZED_WORK(name, shape) quantized_work name = {0, NULL, NULL}
#endif

INLINE void multiply_quantized_piece(quantized_product m, const panel_piece *piece, quantized_work *work) {
    tile_kind kind = OF_VECTORS;
    ask_for_bias(m.bias, piece->panel);
    const int64_t tiles = ceil_div(piece->count, tile_tokens(m.shape));
#if defined(__AMX_INT8__)
    if (in_tiles(m.shape, piece->count)) {
        const int alone = piece->blocks == 1 && piece->count <= AMX_ROWS / m.shape.row.digits;
        if (has_multiples(m.shape) && !alone && work->held != piece->columns)
            write_panel(m.shape, work->held = piece->columns, work->written);
        multiply_amx_piece(m, piece, alone ? NULL : work->written, &work->configured);
        return;
    }
#elif defined(WRITES_PANELS)
    if (worth_writing(m.shape, piece->count, tiles)) {
        kind = work->held == piece->columns ? OF_WRITTEN : WRITING;
        work->held = piece->columns;
    }
#endif
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t first = piece->count * i / tiles, end = piece->count * (i + 1) / tiles;
        multiply_rows(m, kind, piece, work->written, piece->first + first, end - first, 0,
                      quantized_look_ahead(m.shape, piece, i, tiles));
        if (kind == WRITING) kind = OF_WRITTEN;
    }
}

/* Behind the last piece. */
INLINE void end_quantized_pieces(quantized_work *work) {
#if defined(__AMX_INT8__)
    release_tiles(work->configured);
#endif
    work->configured = 0;
}

INLINE int64_t quantized_panels_of(quantized_product m) { return ceil_div(m.n, m.gate ? PANEL / 2 : PANEL); }

INLINE void quantized_multiply(pool *p, int thread, quantized_product m) {
    const int64_t row_bytes = m.shape.row.digits * digit_stride(m.shape.row.width);
    panel_piece piece;
    QUANTIZED_WORK(work, m.shape);
    while (take_panel(p, thread, quantized_panels_of(m), quantized_panel_bytes(m.shape), m.rows, row_bytes, m.weight,
                      &piece))
        multiply_quantized_piece(m, &piece, &work);
    end_quantized_pieces(&work);
}

/* y [rows][n] float32 = residual + (x [rows][k] w' + bias); bias and residual may be NULL, y may be the residual */
INLINE void quantized_linear(pool *p, int thread, quantized_shape q, int64_t n, int64_t rows, const void *x,
                             const float *x_scale, const void *weight, const float *bias, const float *residual,
                             float *y) {
    quantized_multiply(p, thread,
                       (quantized_product){q, n, rows, x, x_scale, weight, bias, residual, y, NO_ACTIVATION});
}

/* y [rows][n] float32 = gate(x gate' + its bias) * (x up' + its bias) */
INLINE void quantized_gated_linear(pool *p, int thread, quantized_shape q, activation gate, int64_t n, int64_t rows,
                                   const void *x, const float *x_scale, const void *weight, const float *bias,
                                   float *y) {
    quantized_multiply(p, thread, (quantized_product){q, n, rows, x, x_scale, weight, bias, NULL, y, gate});
}

#endif
