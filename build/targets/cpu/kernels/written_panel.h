/* Panels of int4 weights whose scales are multiples of a unit (qshape.h), written out as 8-bit weights, level times
 * multiple, by a thread whose rows are many: they then meet weights of one group, and nothing is done for every group. */
#ifndef INFLIGHT_WRITTEN_PANEL_H
#define INFLIGHT_WRITTEN_PANEL_H

#include "multiples.h"

/* Longer rows are multiplied as the panel is: a written panel lies on the stack. */
#define WRITTEN_MOST (1 << 15)
#define WRITTEN_BLOCK 64 /* values of k: there is room for whole blocks */

INLINE int can_be_written(quantized_shape q) { return has_multiples(q) && q.row.width <= WRITTEN_MOST; }
/* Of a panel: a step of four bytes of 64 columns for every four of k, as 8-bit weights have it. */
INLINE int64_t written_bytes(quantized_shape q) {
    return can_be_written(q) ? round_up(q.row.width, WRITTEN_BLOCK) / 4 * STEP_BYTES : CACHE_LINE;
}

/* Of the columns of a group: a weight + 128 is its level times `multiples` plus `middle`, both in either half of a column,
 * so that levels of neighbours are multiplied together; what they become is 0 to 255. */
typedef struct {
    u16x32 multiples[TILE_VECTORS], middle[TILE_VECTORS];
} group_multiples;

#define LOWER_TWICE(n) n, n, n + 2, n + 2, n + 4, n + 4, n + 6, n + 6
INLINE group_multiples read_multiples(const uint8_t *group) {
    group_multiples m;
    UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
        const u16x32 read = (u16x32)load_multiples(group + v * LANES);
        m.multiples[v] = __builtin_shufflevector(read, read, LOWER_TWICE(0), LOWER_TWICE(8), LOWER_TWICE(16),
                                                 LOWER_TWICE(24));
        m.middle[v] = 128 * 0x0101 - m.multiples[v] * (8 * 0x0101);
    }
    return m;
}

/* Vector v of one half of a step of 4-bit weights, the first four values of k or the second, as weights + 128. */
INLINE u32x16 half_written(const group_multiples *m, int v, int half, const uint8_t *step) {
    const u32x16 words = load_words(step + v * CACHE_LINE), levels = half ? upper_halves(words) : lower_halves(words);
    return (u32x16)((u16x32)levels * m->multiples[v] + m->middle[v]);
}

#endif
