/* Panels of int4 weights whose scales are multiples of a unit (qtile.h), written out as 8-bit weights, level times
 * multiple, by a thread whose rows are many: they then meet weights of one group, and nothing is done for every group. */
#ifndef INFLIGHT_WRITTEN_PANEL_H
#define INFLIGHT_WRITTEN_PANEL_H

#include "multiples.h"

/* Longer rows are multiplied as the panel is: a written panel lies on the stack. */
#define WRITTEN_MOST (1 << 15)
#define WRITTEN_BLOCK 64 /* values of k; a panel is filled with zeros up to whole blocks */
#define SIGNED_WEIGHTS 0x80808080u

INLINE int can_be_written(quantized_shape q) { return has_multiples(q) && q.row.width <= WRITTEN_MOST; }
/* Of a panel: a step of four bytes of 64 columns for every four of k, as 8-bit weights have it. */
INLINE int64_t written_bytes(quantized_shape q) {
    return can_be_written(q) ? round_up(q.row.width, WRITTEN_BLOCK) / 4 * STEP_BYTES : CACHE_LINE;
}

/* Four levels of 16 columns, 0 to 15 each in a byte, as level times the columns' multiples plus `middle`. Two levels are
 * multiplied together: the multiple, and what is added, lie in both halves of a column, and a result is 0 to 255. */
INLINE u32x16 times_multiples(u32x16 levels, u16x32 multiples, u16x32 middle) {
    return (u32x16)((u16x32)levels * multiples + middle);
}

/* `turned`: what is turned over in four weights, which are w + 128: nothing, or SIGNED_WEIGHTS. */
INLINE void write_panel(quantized_shape q, const uint8_t *panel, uint32_t turned, uint8_t *written) {
    const int64_t groups = ceil_div(q.row.width, q.row.group);
    uint8_t *line = written;
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t *group = panel + g * group_bytes(q), *weights = group + scales_bytes(q);
        const int64_t lines = ceil_div(min_int(q.row.group, q.row.width - g * q.row.group), 4);
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
            const u32x16 multiple = (u32x16)load_multiples(group + v * LANES);
            const u16x32 multiples = (u16x32)((multiple & 0xffffu) | multiple << 16);
            const u16x32 middle = (u16x32)((128u - 8u * multiple) * 0x01010101u);
            for (int64_t i = 0; i < lines; i += 2) {
                const u32x16 words = load_words(weights + i / 2 * STEP_BYTES + v * CACHE_LINE);
                const u32x16 first = words & 0x0f0f0f0fu, second = words >> 4 & 0x0f0f0f0fu;
                uint8_t *to = line + i * STEP_BYTES + v * CACHE_LINE;
                store_words(to, times_multiples(first, multiples, middle) ^ turned);
                if (i + 1 < lines) store_words(to + STEP_BYTES, times_multiples(second, multiples, middle) ^ turned);
            }
        }
        line += lines * STEP_BYTES;
    }
    memset(line, 0, (size_t)(written + written_bytes(q) - line));
}

#endif
