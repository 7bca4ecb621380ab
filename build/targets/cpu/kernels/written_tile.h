/* The integer product of panels that are written out (written_panel.h), in vectors: a tile as qtile.h has it, of 8-bit
 * weights. Sums are those of multiples.h, to the bit. */
#ifndef INFLIGHT_WRITTEN_TILE_H
#define INFLIGHT_WRITTEN_TILE_H

#include "written_panel.h"

/* Tiles that meet a panel, from which on writing it costs less than its groups do. */
#define WRITTEN_TILES 4

INLINE int worth_writing(quantized_shape q, int64_t tiles) { return can_be_written(q) && tiles >= WRITTEN_TILES; }

/* What the weights' offset adds to a sum of a row of digits. */
INLINE int32_t written_excess(quantized_shape q, const int8_t *x) {
    const int32_t *sums = digit_sums(x, q.row.width);
    int32_t sum = 0;
    for (int64_t g = 0; g < ceil_div(q.row.width, q.row.group); g++) sum += sums[g];
    return weight_offset(8) * sum;
}

INLINE void written_height(quantized_shape q, int rows, const int8_t *x, const uint8_t *panel, const uint8_t *written,
                           look_ahead ahead, tile_output out) {
    const int64_t stride = digit_stride(q.row.width), steps = ceil_div(q.row.width, 4), asking = asking_steps(rows);
    integer_sums sums;
    tile_sums totals;
    UNROLL for (int r = 0; r < rows; r++) {
        const int32_t repair = -written_excess(q, x + r * stride);
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = splat_int(repair);
    }
    ask_for_output(rows / q.row.digits, TILE_VECTORS, out);
    int64_t s = 0;
    for (; s + 2 * asking <= steps; s += 2 * asking) {
        ask_for_steps((int)asking, &ahead); /* steps of the panel itself, which are two here */
        for (int64_t i = s; i < s + 2 * asking; i++)
            integer_step(8, rows, TILE_VECTORS, x + 4 * i, stride, written + i * STEP_BYTES, sums);
    }
    for (; s < steps; s++)
        integer_step(8, rows, TILE_VECTORS, x + 4 * s, stride, written + s * STEP_BYTES, sums);
    UNROLL for (int t = 0; t < rows / q.row.digits; t++)
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) totals[t][v] = splat(0.0f);
    add_group(one_scale(q), rows, TILE_VECTORS, (const i32x16(*)[TILE_VECTORS])sums, panel + units_offset(q), totals);
    ask_for_next_tile(q, rows, x, written);
    finish_tile(rows / q.row.digits, TILE_VECTORS, totals, out);
}

/* As quantized_tile of qtile.h, of one of WRITTEN_TILES or more nearly equal tiles: the lowest have 4 rows, or the three
 * digits of one token. */
INLINE void written_tile(quantized_shape q, int64_t tokens, const int8_t *x, const uint8_t *panel,
                         const uint8_t *written, look_ahead ahead, tile_output out) {
    const int lowest = q.row.digits == 3 ? 3 : 4;
    switch (tokens * q.row.digits) {
        case TILE_ROWS: written_height(q, TILE_ROWS, x, panel, written, ahead, out); break;
        case 5: written_height(q, 5, x, panel, written, ahead, out); break;
        default: written_height(q, lowest, x, panel, written, ahead, out); break;
    }
}

#endif
