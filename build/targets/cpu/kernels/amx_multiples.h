/* The integer product of weights whose scales are multiples of a unit (qtile.h), in tiles of AMX.
 *
 * A panel is written out once as signed bytes (written_panel.h), and all rows that meet it multiply those: as 8-bit
 * weights of one group, with sums that need no correction. */
#ifndef INFLIGHT_AMX_MULTIPLES_H
#define INFLIGHT_AMX_MULTIPLES_H

#include "amx_groups.h"
#include "written_panel.h"

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
