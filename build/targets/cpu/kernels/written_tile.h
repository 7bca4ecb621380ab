/* The integer product of panels that are written out (written_panel.h), in vectors: a tile as qtile.h has it, of 8-bit
 * weights. The first tile that meets a panel writes it: its weights are in registers anyway, and stores cost little
 * beside its products. Sums are those of multiples.h, to the bit. */
#ifndef INFLIGHT_WRITTEN_TILE_H
#define INFLIGHT_WRITTEN_TILE_H

#include "written_panel.h"

/* Whether writing a panel costs less than its groups do, for so many tokens in so many tiles: groups of 16 cost most. */
INLINE int worth_writing(quantized_shape q, int64_t tokens, int64_t tiles) {
    const int small = q.row.group < 32 && tokens * q.row.digits >= 8;
    return can_be_written(q) && tiles >= (small ? 2 : 3);
}

/* What the weights' offset adds to a sum of a row of digits. */
INLINE int32_t written_excess(quantized_shape q, const int8_t *x) {
    const int32_t *sums = digit_sums(x, q.row.width);
    int32_t sum = 0;
    for (int64_t g = 0; g < ceil_div(q.row.width, q.row.group); g++) sum += sums[g];
    return weight_offset(8) * sum;
}

INLINE void write_half(int rows, int half, const group_multiples *m, const int8_t *x, int64_t x_stride,
                       const uint8_t *step, uint8_t *written, integer_sums sums) {
    u32x16 columns[TILE_VECTORS];
    UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
        columns[v] = half_written(m, v, half, step);
        store_words(written + v * CACHE_LINE, columns[v]);
    }
    add_quads(8, rows, TILE_VECTORS, x, x_stride, columns, sums);
}

/* sums += digits times the panel's weights, which are written on the way. */
INLINE void add_and_write(quantized_shape q, int rows, const int8_t *x, const uint8_t *panel, uint8_t *written,
                          look_ahead *ahead, integer_sums sums) {
    const int64_t stride = digit_stride(q.row.width), asking = asking_steps(4, rows, q.row.group / 8);
    for (int64_t g = 0; g < ceil_div(q.row.width, q.row.group); g++) {
        const uint8_t *group = panel + g * group_bytes(q), *weights = group + scales_bytes(q);
        const int64_t first = g * q.row.group, steps = ceil_div(min_int(q.row.group, q.row.width - first), 8);
        const group_multiples m = read_multiples(TILE_VECTORS, group);
        for (int64_t s = 0; s < steps; s += asking) {
            if (s + asking <= steps) ask_for_steps((int)asking, ahead);
            for (int64_t i = s; i < min_int(steps, s + asking); i++) {
                const uint8_t *step = weights + i * STEP_BYTES;
                const int64_t k = first + 8 * i;
                write_half(rows, 0, &m, x + k, stride, step, written + k / 4 * STEP_BYTES, sums);
                __asm__("" : "+r"(step)); /* as integer_step */
                write_half(rows, 1, &m, x + k + 4, stride, step, written + (k / 4 + 1) * STEP_BYTES, sums);
            }
        }
    }
}

/* sums += digits times the written weights. */
INLINE void add_written(quantized_shape q, int rows, const int8_t *x, const uint8_t *written, look_ahead *ahead,
                        integer_sums sums) {
    const int64_t stride = digit_stride(q.row.width), steps = ceil_div(q.row.width, 4);
    const int64_t asking = asking_steps(4, rows, steps);
    int64_t s = 0;
    for (; s + 2 * asking <= steps; s += 2 * asking) {
        ask_for_steps((int)asking, ahead); /* steps of the panel itself, which are two here */
        for (int64_t i = s; i < s + 2 * asking; i++)
            integer_step(8, rows, TILE_VECTORS, x + 4 * i, stride, written + i * STEP_BYTES, sums);
    }
    for (; s < steps; s++)
        integer_step(8, rows, TILE_VECTORS, x + 4 * s, stride, written + s * STEP_BYTES, sums);
}

INLINE void written_height(quantized_shape q, int rows, int held, const int8_t *x, const uint8_t *panel,
                           uint8_t *written, look_ahead ahead, tile_output out) {
    integer_sums sums;
    tile_sums totals;
    UNROLL for (int r = 0; r < rows; r++) {
        const int32_t repair = -written_excess(q, x + r * digit_stride(q.row.width));
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = splat_int(repair);
    }
    ask_for_output(rows / q.row.digits, TILE_VECTORS, out);
    if (held) add_written(q, rows, x, written, &ahead, sums);
    else add_and_write(q, rows, x, panel, written, &ahead, sums);
    UNROLL for (int t = 0; t < rows / q.row.digits; t++)
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) totals[t][v] = splat(0.0f);
    add_group(one_scale(q), rows, TILE_VECTORS, (const i32x16(*)[TILE_VECTORS])sums, panel + units_offset(q), totals);
    ask_for_next_tile(q, rows, x, written);
    finish_tile(rows / q.row.digits, TILE_VECTORS, totals, out);
}

/* As quantized_tile of qtile.h, of one of the nearly equal tiles of worth_writing: the lowest have 4 rows, or the three
 * digits of one token. `held`: the panel is in `written`; otherwise it is afterwards. */
INLINE void written_tile(quantized_shape q, int held, int64_t tokens, const int8_t *x, const uint8_t *panel,
                         uint8_t *written, look_ahead ahead, tile_output out) {
    const int lowest = q.row.digits == 3 ? 3 : 4;
#define PRODUCT(n)                                                                   \
    if (held) written_height(q, n, 1, x, panel, written, ahead, out); \
    else written_height(q, n, 0, x, panel, written, ahead, out);      \
    break
    switch (tokens * q.row.digits) {
        case TILE_ROWS: PRODUCT(TILE_ROWS);
        case 5: PRODUCT(5);
        default: PRODUCT(lowest);
    }
#undef PRODUCT
}

#endif
