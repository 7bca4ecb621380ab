/* The integer matrix kernel: a tile of up to TILE_ROWS digit rows (quantize.h) x (16 vectors) int32 accumulators.
 *
 * Integer sums are exact. Groups are scaled and added in float32 in order of k, so a row's bits depend on neither the
 * tile's shape nor its neighbours. */
#ifndef INFLIGHT_QTILE_H
#define INFLIGHT_QTILE_H

#include "activation.h"
#include "qsteps.h"
#include "row_sums.h"

/* Where a tile goes: y[token][column] = residual[token][column] + (product * x_scale[token] + bias[column]), rows of y
 * and of the residual `stride` apart; with a `gate`, activation(gate) * up of neighbouring vectors of columns, half as
 * many, both with their bias. */
typedef struct {
    const float *x_scale, *bias, *residual; /* bias, residual NULL: none */
    float *y;
    int64_t stride;
    activation gate; /* NO_ACTIVATION: every column as it is */
    const row_sums *into; /* in place of y: from column `column` of row `row` of the product on; NULL: none */
    int64_t row, column;
} tile_output;

/* Vectors of columns side by side. Where groups are added up, the float32 sums of a whole tile share the registers;
 * those of a lower one rest in the first-level cache meanwhile, which costs it less than a second pass does. */
INLINE int quantized_vectors(quantized_shape q, int rows) {
    const int most = q.row.group < q.row.width && rows == TILE_ROWS ? TILE_VECTORS / 2 : TILE_VECTORS;
    return (int)min_int(tile_vectors(rows), most);
}

/* The digits of a token, whose sums are `apart` vectors from each other, make one value. */
INLINE f32x16 digits_value(quantized_shape q, const i32x16 *sums, int apart) {
    f32x16 value = __builtin_convertvector(sums[0], f32x16);
    UNROLL for (int d = 1; d < q.row.digits; d++)
        value = fma16(value, splat(256.0f), __builtin_convertvector(sums[d * apart], f32x16));
    return value;
}

/* totals[token] += group's integers of vector v, scaled. */
INLINE void add_group(quantized_shape q, int rows, int vectors, const integer_sums sums, const uint8_t *scales,
                      tile_sums totals) {
    UNROLL for (int v = 0; v < vectors; v++) {
        const f32x16 scale = load16(q.scale_type, scales, v * LANES);
        UNROLL for (int r = 0; r < rows; r += q.row.digits) {
            f32x16 *total = &totals[r / q.row.digits][v];
            *total = fma16(digits_value(q, &sums[r][v], TILE_VECTORS), scale, *total);
        }
    }
}

/* The sum of a row's integers in group g. */
INLINE float group_sum(quantized_shape q, const int8_t *x, int64_t g) {
    float sum = (float)digit_sums(x, q.row.width)[g];
    UNROLL for (int d = 1; d < q.row.digits; d++)
        sum = sum * 256.0f + (float)digit_sums(x + d * digit_stride(q.row.width), q.row.width)[g];
    return sum;
}

/* Of vector v, `scales` being where those of add_group are. */
INLINE f32x16 zero_points(quantized_shape q, const uint8_t *scales, int v) {
    const f32x16 zero = load16(q.scale_type, scales, PANEL + v * LANES);
    return zeros_of_least(q) ? fma16(splat(8.0f), load16(q.scale_type, scales, v * LANES), zero) : zero;
}

/* totals[token] += the sums of that token's integers times the zero points. */
INLINE void add_zeros(quantized_shape q, int tokens, int vectors, int64_t g, const int8_t *x, const uint8_t *scales,
                      f32x16 (*totals)[TILE_VECTORS]) {
    UNROLL for (int t = 0; t < tokens; t++) {
        const f32x16 sum = splat(group_sum(q, x + t * q.row.digits * digit_stride(q.row.width), g));
        UNROLL for (int v = 0; v < vectors; v++) totals[t][v] = fma16(sum, zero_points(q, scales, v), totals[t][v]);
    }
}

/* A group of one row: its scales and zero points are read in front of its weights, as they lie in memory. */
INLINE void add_row_group(quantized_shape q, int vectors, int64_t g, const int8_t *x, const uint8_t *scales,
                           const uint8_t *panel, look_ahead *ahead, f32x16 totals[TILE_VECTORS]) {
    f32x16 scale[TILE_VECTORS], zero[TILE_VECTORS];
    integer_sums sums;
    UNROLL for (int v = 0; v < vectors; v++) {
        scale[v] = load16(q.scale_type, scales, v * LANES);
        READ_HERE(scale[v]);
        if (!q.zeros) continue;
        zero[v] = zero_points(q, scales, v);
        READ_HERE(zero[v]);
    }
    integer_group(q, q.row.digits, vectors, g, x, panel, ahead, sums);
    const f32x16 sum = splat(q.zeros ? group_sum(q, x, g) : 0.0f);
    UNROLL for (int v = 0; v < vectors; v++) {
        totals[v] = fma16(digits_value(q, &sums[0][v], TILE_VECTORS), scale[v], totals[v]);
        if (q.zeros) totals[v] = fma16(sum, zero[v], totals[v]);
    }
}

INLINE void finish_tile(int tokens, int vectors, tile_sums totals, tile_output out) {
    UNROLL for (int t = 0; t < tokens; t++) {
        float *y = out.into ? sums_of(out.into, out.row + t) + out.column : out.y + t * out.stride;
        const f32x16 weight = out.into ? weight_of(out.into, out.row + t) : splat(1.0f);
        UNROLL for (int v = 0; v < vectors; v++) {
            totals[t][v] *= out.x_scale[t];
            if (out.bias) totals[t][v] += load16(F32, out.bias, v * LANES);
            if (out.into) totals[t][v] = fma16(weight, totals[t][v], load16(F32, y, v * LANES));
            if (out.residual) totals[t][v] += load16(F32, out.residual, t * out.stride + v * LANES);
            if (!out.gate) store16(F32, y, v * LANES, totals[t][v]);
            else if (v % 2) store16(F32, y, v / 2 * LANES, gated16(out.gate, totals[t][v - 1], totals[t][v]));
        }
    }
}

/* The first reads of the next tile, while this one is finished: its rows lie behind these, the panel is the same. */
INLINE void ask_for_next_tile(quantized_shape q, int rows, const int8_t *x, const uint8_t *panel) {
    const int64_t stride = digit_stride(q.row.width);
    UNROLL for (int r = rows; r < 2 * rows; r++) {
        __builtin_prefetch(x + r * stride, 0, 3);
        __builtin_prefetch(digit_sums(x + r * stride, q.row.width), 0, 3);
    }
    UNROLL for (int i = 0; i < FIRST_BYTES; i += CACHE_LINE) __builtin_prefetch(panel + i, 0, 3);
}

/* The lines that finish_tile will write: stores that miss the caches would hold up those behind them. */
INLINE void ask_for_output(int tokens, int vectors, tile_output out) {
    const int lines = out.gate ? vectors / 2 : vectors;
    UNROLL for (int t = 0; t < tokens; t++) {
        const float *y = out.into ? sums_of(out.into, out.row + t) + out.column : out.y + t * out.stride;
        UNROLL for (int i = 0; i < lines; i++) __builtin_prefetch(y + i * LANES, 1, 3);
    }
}

/* totals += group g of weights that are codes; `scales` are those of the columns, `panel` is their first step. */
INLINE void codebook_group(quantized_shape q, int rows, int vectors, int64_t g, const int8_t *x, const uint8_t *scales,
                           const uint8_t *panel, look_ahead *ahead, tile_sums totals);

/* quantized_columns of weights whose scales are multiples (multiples.h). */
INLINE void multiples_columns(quantized_shape q, int rows, int vectors, const int8_t *x, const uint8_t *panel,
                              int64_t column, look_ahead *ahead, tile_output out);

INLINE void quantized_columns(quantized_shape q, int rows, int vectors, const int8_t *x, const uint8_t *panel,
                              int64_t column, look_ahead *ahead, tile_output out) {
    if (has_multiples(q)) {
        multiples_columns(q, rows, vectors, x, panel, column, ahead, out);
        return;
    }
    const int64_t groups = ceil_div(q.row.width, q.row.group);
    integer_sums sums;
    tile_sums totals;
    UNROLL for (int t = 0; t < rows / q.row.digits; t++)
        UNROLL for (int v = 0; v < vectors; v++) totals[t][v] = splat(0.0f);
    ask_for_output(rows / q.row.digits, vectors, out);
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t *group = panel + g * group_bytes(q);
        const uint8_t *scales = group + column * element_size(q.scale_type);
        ask_for_scales(q, rows, group, ahead);
        if (q.codes.digits) {
            codebook_group(q, rows, vectors, g, x, scales, group + scales_bytes(q) + column * 4, ahead, totals);
            continue;
        }
        if (scales_in_registers(q, rows)) {
            add_row_group(q, vectors, g, x, scales, group + scales_bytes(q) + column * 4, ahead, totals[0]);
            continue;
        }
        integer_group(q, rows, vectors, g, x, group + scales_bytes(q) + column * 4, ahead, sums);
        add_group(q, rows, vectors, (const i32x16(*)[TILE_VECTORS])sums, scales, totals);
        if (q.zeros) add_zeros(q, rows / q.row.digits, vectors, g, x, scales, totals);
    }
    if (rows > 3) ask_for_next_tile(q, rows, x, panel);
    finish_tile(rows / q.row.digits, vectors, totals, out);
}

INLINE void quantized_height(quantized_shape q, int rows, const int8_t *x, const uint8_t *panel, look_ahead ahead,
                             tile_output out) {
    const int vectors = quantized_vectors(q, rows), passes = TILE_VECTORS / vectors;
    ahead.bytes = ceil_div(ahead.bytes, passes);
    for (int64_t column = 0; column < PANEL; column += vectors * LANES) {
        tile_output part = out;
        if (out.bias) part.bias += column;
        if (out.residual) part.residual += column;
        if (out.into) part.column += column;
        else part.y += out.gate ? column / 2 : column;
        quantized_columns(q, rows, vectors, x, panel, column, &ahead, part);
    }
}

/* The products of up to tile_tokens rows with one panel: one kernel per height. */
INLINE void quantized_tile(quantized_shape q, int64_t tokens, const int8_t *x, const uint8_t *panel, look_ahead ahead,
                           tile_output out) {
#define PRODUCT(n) quantized_height(q, n, x, panel, ahead, out)
    switch (tokens * q.row.digits) {
        case 1: PRODUCT(1); break;
        case 2: PRODUCT(2); break;
        case 3: PRODUCT(3); break;
        case 4: PRODUCT(4); break;
        case 5: PRODUCT(5); break;
        default: PRODUCT(TILE_ROWS); break;
    }
#undef PRODUCT
}

#endif
