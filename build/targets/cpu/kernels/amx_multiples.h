/* The integer product of weights whose scales are multiples of a unit (qtile.h), in tiles of AMX.
 *
 * A panel is written out once as signed bytes, level times multiple, and all rows that meet it multiply those: as 8-bit
 * weights of one group, with sums that need no correction. */
#ifndef INFLIGHT_AMX_MULTIPLES_H
#define INFLIGHT_AMX_MULTIPLES_H

#include "amx_groups.h"
#include "multiples.h"

/* Longer rows are left to vectors: a written panel lies on the stack. */
#define WRITTEN_MOST (1 << 15)

INLINE int written_in_tiles(quantized_shape q) { return has_multiples(q) && q.row.width <= WRITTEN_MOST; }
/* Of a panel: a line of four bytes of 64 columns for every four of k, up to whole blocks. */
INLINE int64_t written_bytes(quantized_shape q) {
    return written_in_tiles(q) ? round_up(q.row.width, BLOCK_BYTES) / 4 * LINE_BYTES : CACHE_LINE;
}

/* Four levels of 16 columns, 0 to 15 each in a byte, as (level - 8) times the columns' multiples. The product of a
 * level and a magnitude fits in a byte, so those of neighbours do not meet. */
INLINE u32x16 signed_levels(u32x16 levels, u16x32 magnitude, u8x64 middle, u8x64 negative) {
    const u8x64 product = (u8x64)((u16x32)levels * magnitude) - middle;
    return (u32x16)((product ^ negative) - negative);
}

/* A byte in all four bytes of its column. */
INLINE u32x16 spread_bytes(i32x16 x) { return (u32x16)x * 0x01010101u; }

INLINE void write_panel(quantized_shape q, const uint8_t *panel, uint8_t *written) {
    const int64_t groups = ceil_div(q.row.width, q.row.group);
    uint8_t *line = written;
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t *group = panel + g * group_bytes(q), *weights = group + scales_bytes(q);
        const int64_t lines = ceil_div(group_values(q, g), 4);
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
            const i32x16 multiple = load_multiples(group + v * LANES), negative = multiple >> 31;
            const i32x16 size = (multiple ^ negative) - negative;
            const u16x32 magnitude = (u16x32)(size | size << 16);
            const u8x64 middle = (u8x64)(spread_bytes(size) << 3), sign = (u8x64)negative;
            for (int64_t i = 0; i < lines; i++) {
                const u32x16 words = load_words(weights + i / 2 * STEP_BYTES + v * CACHE_LINE);
                const u32x16 levels = (i % 2 ? words >> 4 : words) & 0x0f0f0f0fu;
                store_words(line + i * LINE_BYTES + v * CACHE_LINE, signed_levels(levels, magnitude, middle, sign));
            }
        }
        line += lines * LINE_BYTES;
    }
    memset(line, 0, (size_t)(written + written_bytes(q) - line));
}

/* As quantized_columns of qtile.h, of a panel that is `written`. */
INLINE void written_columns(quantized_shape q, int wide, int64_t tokens, const int8_t *x, const uint8_t *written,
                            const uint8_t *units, int64_t column, look_ahead *ahead, tile_output out) {
    const int64_t stride = digit_stride(q.row.width), steps = BLOCK_BYTES / step_values(q);
    const int vectors = wide ? TILE_VECTORS : TILE_VECTORS / 2;
    i32x16 sums[AMX_ROWS][TILE_VECTORS];
    clear_tiles();
    for (int64_t k = 0; k < q.row.width; k += BLOCK_BYTES) {
        ask_for_block(steps, ahead);
        multiply_block(SIGNED_BYTES, wide, x + k, stride, written + k / 4 * LINE_BYTES + column * 4, CACHE_LINE,
                       LINE_BYTES);
    }
    store_tiles(wide, sums, CACHE_LINE, sizeof sums[0]);
    finish_sums(one_scale(q), vectors, tokens, NULL, sums, units + column * (int64_t)sizeof(float), out);
}

#endif
