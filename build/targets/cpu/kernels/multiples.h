/* The integer product of weights whose scales are whole multiples of one unit a column (qshape.h), in vectors: the
 * sums of a group times its multiples are added up as integers, since a weight, level times multiple, has 8 bits, and a
 * row has one sum. */
#ifndef INFLIGHT_MULTIPLES_H
#define INFLIGHT_MULTIPLES_H

#include "qtile.h"

INLINE i32x16 load_multiples(const uint8_t *multiples) {
    i8x16 x;
    memcpy(&x, multiples, sizeof x);
    return __builtin_convertvector(x, i32x16);
}

/* Whether sums of a group, of weights of 4 bits and digits of 8, fit in 16 bits. */
INLINE int has_short_sums(quantized_shape q) { return q.row.group * 8 * 128 <= INT16_MAX; }

/* total + sum * multiple. Of a short sum its lower half says all: the dot product of both halves with the multiple and
 * zero is one instruction, where a product of 32 bits alone is two. */
INLINE i32x16 add_multiple(quantized_shape q, i32x16 total, i32x16 sum, i32x16 multiple) {
#if defined(__AVX512VNNI__)
    if (has_short_sums(q)) return (i32x16)_mm512_dpwssd_epi32((__m512i)total, (__m512i)sum, (__m512i)(multiple & 0xffff));
#endif
    (void)q;
    return total + sum * multiple;
}

/* totals[digit row] += group's integers of vector v times the multiples. */
INLINE void add_multiples(quantized_shape q, int rows, int vectors, const integer_sums sums, const uint8_t *multiples,
                          integer_sums totals) {
    UNROLL for (int v = 0; v < vectors; v++) {
        const i32x16 multiple = load_multiples(multiples + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) totals[r][v] = add_multiple(q, totals[r][v], sums[r][v], multiple);
    }
}

/* The shape of rows that are added up: their one scale is the unit. */
INLINE quantized_shape one_scale(quantized_shape q) {
    q.scale_type = F32;
    return q;
}

/* As quantized_columns of qtile.h. */
INLINE void multiples_columns(quantized_shape q, int rows, int vectors, const int8_t *x, const uint8_t *panel,
                              int64_t column, look_ahead *ahead, tile_output out) {
    const int64_t groups = ceil_div(q.row.width, q.row.group);
    integer_sums sums, integers;
    tile_sums totals;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) integers[r][v] = splat_int(0);
    ask_for_output(rows / q.row.digits, vectors, out);
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t *group = panel + g * group_bytes(q);
        ask_for_scales(q, rows, group, ahead);
        integer_group(q, rows, vectors, g, x, group + scales_bytes(q) + column * 4, ahead, sums);
        add_multiples(q, rows, vectors, (const i32x16(*)[TILE_VECTORS])sums, group + column, integers);
    }
    UNROLL for (int t = 0; t < rows / q.row.digits; t++)
        UNROLL for (int v = 0; v < vectors; v++) totals[t][v] = splat(0.0f);
    add_group(one_scale(q), rows, vectors, (const i32x16(*)[TILE_VECTORS])integers,
              panel + units_offset(q) + column * (int64_t)sizeof(float), totals);
    if (rows > 3) ask_for_next_tile(q, rows, x, panel);
    finish_tile(rows / q.row.digits, vectors, totals, out);
}

#endif
