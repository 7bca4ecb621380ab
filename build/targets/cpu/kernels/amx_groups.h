/* The integer product with short groups of k in tiles of AMX (amx.h), for amx_qtile.h.
 *
 * The integers of a group leave the tiles, to be scaled and added in float32. So some groups are multiplied first and
 * then added to a row together, which is in registers once for all of them; they are added in order of k, as
 * everywhere. Weights are written out as signed bytes, so that nothing is to be taken off the sums. A group of less
 * than a block is a block of its own: shorter tiles, no zeros between. */
#ifndef INFLIGHT_AMX_GROUPS_H
#define INFLIGHT_AMX_GROUPS_H

#include "amx.h"
#include "qtile.h"

#define SHORT_GROUP 128   /* values of k, at most */
#define GROUPS_TOGETHER 4 /* at most; of more than a block, half as many */

/* The output of the next token. */
INLINE tile_output next_token(tile_output out) {
    out.y += out.stride;
    out.x_scale++;
    if (out.residual) out.residual += out.stride;
    return out;
}

/* The lines that the next tile will write, while this one is finished: the same token's of the rows behind. */
INLINE void ask_for_next_output(int64_t tokens, int vectors, tile_output out) {
    const int lines = out.gate ? vectors / 2 : vectors;
    UNROLL for (int i = 0; i < lines; i++) __builtin_prefetch(out.y + tokens * out.stride + i * LANES, 1, 3);
}

/* totals[token] += the group's sums of that token's digits, repaired and scaled. */
INLINE void add_token(quantized_shape q, int vectors, int64_t g, const int8_t *x, i32x16 (*sums)[TILE_VECTORS],
                      const uint8_t *scales, f32x16 (*total)[TILE_VECTORS]) {
    UNROLL for (int r = 0; r < q.row.digits; r++) {
        int32_t excess = weight_offset(q.bits) * digit_sums(x + r * digit_stride(q.row.width), q.row.width)[g];
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = (i32x16)((u32x16)sums[r][v] - (u32x16)splat_int(excess));
    }
    add_group(q, q.row.digits, vectors, (const i32x16(*)[TILE_VECTORS])sums, scales, total);
    if (q.zeros) add_zeros(q, 1, vectors, g, x, scales, total);
}

/* Sums of rows that have one scale go through registers straight to y. `x`: the rows, to repair the sums; NULL where
 * weights were signed. */
INLINE void finish_sums(quantized_shape q, int vectors, int64_t tokens, const int8_t *x, i32x16 (*sums)[TILE_VECTORS],
                        const uint8_t *scales, tile_output out) {
    const int64_t token_bytes = q.row.digits * digit_stride(q.row.width);
    for (int64_t t = 0; t < tokens; t++, sums += q.row.digits, out = next_token(out)) {
        tile_sums total;
        UNROLL for (int v = 0; v < vectors; v++) total[0][v] = splat(0.0f);
        if (x) add_token(q, vectors, 0, x + t * token_bytes, sums, scales, total);
        else add_group(q, q.row.digits, vectors, (const i32x16(*)[TILE_VECTORS])sums, scales, total);
        ask_for_next_output(tokens, vectors, out);
        finish_tile(1, vectors, total, out);
    }
}

/* Of a pass over a tile: of all vectors of AMX_HEIGHT rows, or of half of them of AMX_ROWS. */
#define PASS_VECTORS (AMX_HEIGHT * TILE_VECTORS)
typedef i32x16 pass_integers[PASS_VECTORS]; /* vector by vector, so that the rows of a tile of AMX lie together */
typedef f32x16 pass_totals[PASS_VECTORS];   /* row by row */

INLINE int has_short_groups(quantized_shape q) {
    return q.row.group < q.row.width && q.row.group <= SHORT_GROUP && !has_multiples(q);
}
/* Of the digits of a row: what one product of tiles takes. */
INLINE int64_t amx_block_bytes(quantized_shape q) {
    return has_short_groups(q) ? min_int(q.row.group, BLOCK_BYTES) : BLOCK_BYTES;
}
INLINE int64_t group_lines(quantized_shape q) {
    return ceil_div(q.row.group, amx_block_bytes(q)) * amx_block_bytes(q) / 4;
}

/* The last group may be shorter. */
INLINE int64_t group_values(quantized_shape q, int64_t g) {
    return min_int(q.row.group, q.row.width - g * q.row.group);
}

INLINE u32x16 signed_levels(u32x16 levels) { return (u32x16)((u8x64)levels - 8); }

/* `values` of k of a panel as signed bytes: by vector of columns lines of four bytes of each, and lines of zeros behind
 * them. */
INLINE void write_signed(quantized_shape q, int vectors, int64_t values, const uint8_t *panel, uint8_t *written) {
    const int64_t steps = ceil_div(values, step_values(q)), lines = group_lines(q), each = q.bits == 8 ? 1 : 2;
    for (int64_t s = 0; s < steps; s++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            const u32x16 words = load_words(panel + s * STEP_BYTES + v * CACHE_LINE);
            uint8_t *line = written + (v * lines + each * s) * CACHE_LINE;
            store_words(line, q.bits == 8 ? words ^ 0x80808080u : signed_levels(lower_halves(words)));
            if (q.bits == 4) store_words(line + CACHE_LINE, signed_levels(upper_halves(words)));
        }
    }
    UNROLL for (int v = 0; v < vectors; v++)
        for (int64_t i = each * steps; i < lines; i++) memset(written + (v * lines + i) * CACHE_LINE, 0, CACHE_LINE);
}

/* sums = the digits of one group of `values` times its `written` weights. A block of x may reach beyond the group,
 * into values or into the sums behind the row (quantize.h), which meet lines of zeros. */
INLINE void multiply_written(quantized_shape q, int wide, int64_t values, const int8_t *x, const uint8_t *written,
                             i32x16 *sums) {
    const int64_t block = amx_block_bytes(q), vector = group_lines(q) * CACHE_LINE;
    clear_tiles();
    for (int64_t i = 0; i < values; i += block)
        multiply_block(SIGNED_BYTES, wide, x + i, digit_stride(q.row.width), written + i / 4 * CACHE_LINE, vector,
                       CACHE_LINE);
    store_tiles(wide, sums, (wide ? AMX_HEIGHT : AMX_ROWS) * CACHE_LINE, CACHE_LINE);
}

/* totals += the sums of `count` groups from g on, scaled, and their zero points. `scales` are those of the first. */
INLINE void add_groups(quantized_shape q, int count, int wide, int64_t tokens, int64_t g, const int8_t *x,
                       const pass_integers *sums, const uint8_t *scales, f32x16 *totals) {
    const int vectors = wide ? TILE_VECTORS : TILE_VECTORS / 2, height = wide ? AMX_HEIGHT : AMX_ROWS;
    f32x16 scale[GROUPS_TOGETHER][TILE_VECTORS], zero[GROUPS_TOGETHER][TILE_VECTORS];
    UNROLL for (int i = 0; i < count; i++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            scale[i][v] = load16(q.scale_type, scales + i * group_bytes(q), v * LANES);
            if (q.zeros) zero[i][v] = zero_points(q, scales + i * group_bytes(q), v);
        }
    }
    for (int64_t t = 0; t < tokens; t++, x += q.row.digits * digit_stride(q.row.width)) {
        UNROLL for (int v = 0; v < vectors; v++) {
            f32x16 total = totals[t * vectors + v];
            UNROLL for (int i = 0; i < count; i++) {
                const i32x16 *digits = sums[i] + v * height + t * q.row.digits;
                total = fma16(digits_value(q, digits, 1), scale[i][v], total);
                if (q.zeros) total = fma16(splat(group_sum(q, x, g + i)), zero[i][v], total);
            }
            totals[t * vectors + v] = total;
        }
    }
}

/* totals += the products of `count` groups from g on. All are written before they are multiplied: a load waits for what
 * was just written. */
INLINE void add_products_of_groups(quantized_shape q, int count, int wide, int64_t tokens, int64_t g, const int8_t *x,
                                   const uint8_t *panel, int64_t column, look_ahead *ahead, f32x16 *totals) {
    _Alignas(64) uint8_t written[GROUPS_TOGETHER * BLOCK_LINES * LINE_BYTES];
    pass_integers sums[GROUPS_TOGETHER];
    const int vectors = wide ? TILE_VECTORS : TILE_VECTORS / 2;
    const int64_t bytes = vectors * group_lines(q) * CACHE_LINE;
    const uint8_t *group = panel + g * group_bytes(q);
    UNROLL for (int i = 0; i < count; i++) {
        const int64_t values = group_values(q, g + i);
        ask_for_block(ceil_div(values, step_values(q)), ahead);
        write_signed(q, vectors, values, group + i * group_bytes(q) + scales_bytes(q) + column * 4, written + i * bytes);
    }
    UNROLL for (int i = 0; i < count; i++)
        multiply_written(q, wide, group_values(q, g + i), x + (g + i) * q.row.group, written + i * bytes, sums[i]);
    add_groups(q, count, wide, tokens, g, x, sums, group + column * element_size(q.scale_type), totals);
}

INLINE void add_short_groups(quantized_shape q, int wide, int64_t tokens, const int8_t *x, const uint8_t *panel,
                             int64_t column, look_ahead *ahead, f32x16 *totals) {
    const int64_t groups = ceil_div(q.row.width, q.row.group);
    const int together = q.row.group > BLOCK_BYTES ? GROUPS_TOGETHER / 2 : GROUPS_TOGETHER;
    int64_t g = 0;
    for (; g + together <= groups; g += together)
        add_products_of_groups(q, together, wide, tokens, g, x, panel, column, ahead, totals);
    for (; g < groups; g++) add_products_of_groups(q, 1, wide, tokens, g, x, panel, column, ahead, totals);
}

#endif
