/* The integer product in tiles of AMX (amx.h): up to AMX_ROWS digit rows against one panel of qshape.h.
 *
 * Integer sums are exact and everything behind them is qtile.h's own, so the bits are those of the vector kernels,
 * and which of the two computes a row may depend on the number of rows. */
#ifndef INFLIGHT_AMX_QTILE_H
#define INFLIGHT_AMX_QTILE_H

#include "amx_multiples.h"

/* Tiles are loaded from memory, so 4-bit weights must be written out first: several blocks at a time, since a load
 * waits for what was just written. */
#define UNPACKED_BLOCKS 4

typedef uint8_t unpacked_lines[UNPACKED_BLOCKS * BLOCK_LINES][LINE_BYTES];

INLINE int64_t block_steps(quantized_shape q) { return BLOCK_BYTES / step_values(q); }

/* `steps` of a panel as one line for every four of k, with lines of zeros up to whole blocks. */
INLINE void unpack_steps(int bits, int vectors, int64_t steps, const uint8_t *panel, unpacked_lines lines) {
    const int64_t halves = bits == 8 ? 1 : 2, used = steps * halves;
    for (int64_t s = 0; s < steps; s++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            const u32x16 words = load_words(panel + s * STEP_BYTES + v * 64);
            if (bits == 8) {
                store_words(lines[s] + v * 64, words);
            } else {
                store_words(lines[2 * s] + v * 64, lower_halves(words));
                store_words(lines[2 * s + 1] + v * 64, upper_halves(words));
            }
        }
    }
    for (int64_t i = used; i < round_up(used, BLOCK_LINES); i++) memset(lines[i], 0, LINE_BYTES);
}

/* Sums of one group, whose first step is `panel`. A block of x may reach beyond the group, into values or into the sums
 * behind the row (quantize.h), which meet lines of zeros. */
INLINE void multiply_group(quantized_shape q, int wide, int64_t steps, const int8_t *x, const uint8_t *panel,
                           look_ahead *ahead) {
    const int64_t block = block_steps(q), together = q.bits == 8 ? block : UNPACKED_BLOCKS * block;
    _Alignas(64) unpacked_lines unpacked;
    clear_tiles();
    for (int64_t s = 0; s < steps; s += together) {
        const int64_t count = min_int(together, steps - s);
        const uint8_t *lines = panel + s * STEP_BYTES;
        if (q.bits == 4 || count < together) {
            unpack_steps(q.bits, wide ? TILE_VECTORS : TILE_VECTORS / 2, count, lines, unpacked);
            lines = unpacked[0];
        }
        for (int64_t i = 0; i < count; i += block) {
            ask_for_block(block, ahead);
            multiply_block(UNSIGNED_BYTES, wide, x + (s + i) * step_values(q), digit_stride(q.row.width),
                           lines + i / block * BLOCK_LINES * LINE_BYTES, CACHE_LINE, LINE_BYTES);
        }
    }
}

/* The totals of one row of a pass. */
INLINE f32x16 (*row_of(f32x16 *totals, int64_t row, int vectors))[TILE_VECTORS] {
    return (f32x16(*)[TILE_VECTORS])(totals + row * vectors);
}

/* totals += the products of every group, one after the other. */
INLINE void add_long_groups(quantized_shape q, int wide, int64_t tokens, const int8_t *x, const uint8_t *panel,
                            int64_t column, look_ahead *ahead, f32x16 *totals) {
    const int64_t groups = ceil_div(q.row.width, q.row.group), token_bytes = q.row.digits * digit_stride(q.row.width);
    const int vectors = wide ? TILE_VECTORS : TILE_VECTORS / 2;
    i32x16 sums[AMX_ROWS][TILE_VECTORS];
    for (int64_t g = 0; g < groups; g++) {
        const int64_t first = g * q.row.group, values = min_int(q.row.group, q.row.width - first);
        const uint8_t *scales = panel + g * group_bytes(q);
        multiply_group(q, wide, ceil_div(values, step_values(q)), x + first, scales + scales_bytes(q) + column * 4,
                       ahead);
        store_tiles(wide, sums, CACHE_LINE, sizeof sums[0]);
        for (int64_t t = 0; t < tokens; t++)
            add_token(q, vectors, g, x + t * token_bytes, sums + t * q.row.digits,
                      scales + column * element_size(q.scale_type), row_of(totals, t, vectors));
    }
}

/* The only group of a row: its sums go through registers straight to y. */
INLINE void amx_whole_columns(quantized_shape q, int wide, int64_t tokens, const int8_t *x, const uint8_t *panel,
                              int64_t column, look_ahead *ahead, tile_output out) {
    i32x16 sums[AMX_ROWS][TILE_VECTORS];
    multiply_group(q, wide, ceil_div(q.row.width, step_values(q)), x, panel + scales_bytes(q) + column * 4, ahead);
    store_tiles(wide, sums, CACHE_LINE, sizeof sums[0]);
    finish_sums(q, wide ? TILE_VECTORS : TILE_VECTORS / 2, tokens, x, sums, panel + column * element_size(q.scale_type),
                out);
}

/* As quantized_columns of qtile.h. */
INLINE void amx_quantized_columns(quantized_shape q, int wide, int64_t tokens, const int8_t *x, const uint8_t *panel,
                                  int64_t column, look_ahead *ahead, tile_output out) {
    if (q.row.group >= q.row.width) {
        amx_whole_columns(q, wide, tokens, x, panel, column, ahead, out);
        return;
    }
    const int vectors = wide ? TILE_VECTORS : TILE_VECTORS / 2;
    pass_totals totals = {{0}};
    if (has_short_groups(q)) add_short_groups(q, wide, tokens, x, panel, column, ahead, totals);
    else add_long_groups(q, wide, tokens, x, panel, column, ahead, totals);
    for (int64_t t = 0; t < tokens; t++, out = next_token(out)) {
        ask_for_next_output(tokens, vectors, out);
        finish_tile(1, vectors, row_of(totals, t, vectors), out);
    }
}

INLINE void amx_quantized_pass(quantized_shape q, int wide, int64_t tokens, const int8_t *x, const uint8_t *panel,
                               const uint8_t *written, int64_t column, look_ahead *ahead, tile_output out) {
    if (has_multiples(q))
        written_columns(q, wide, tokens, x, written, panel + units_offset(q), column, ahead, out);
    else
        amx_quantized_columns(q, wide, tokens, x, panel, column, ahead, out);
}

/* As quantized_tile of qtile.h, for up to AMX_ROWS / digits tokens for whose digits the tiles are configured.
 * `written`: the panel as write_panel leaves it, where weights have multiples. */
INLINE void amx_quantized_tile(quantized_shape q, int64_t tokens, const int8_t *x, const uint8_t *panel,
                               const uint8_t *written, look_ahead ahead, tile_output out) {
    if (is_wide(tokens * q.row.digits)) {
        amx_quantized_pass(q, 1, tokens, x, panel, written, 0, &ahead, out);
        return;
    }
    for (int64_t column = 0; column < PANEL; column += PANEL / 2) {
        tile_output part = out;
        if (out.bias) part.bias += column;
        if (out.residual) part.residual += column;
        part.y += out.gate ? column / 2 : column;
        amx_quantized_pass(q, 0, tokens, x, panel, written, column, &ahead, part);
    }
}

#endif
