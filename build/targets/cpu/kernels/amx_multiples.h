/* The integer product of weights whose scales are multiples of a unit (qshape.h), in tiles of AMX.
 *
 * Weights are written out as signed bytes (written_panel.h), and all rows that meet them multiply those: as 8-bit weights
 * of one group, with sums that need no correction. A panel that several tiles meet is written as a whole, once; where
 * one tile does, block by block. */
#ifndef INFLIGHT_AMX_MULTIPLES_H
#define INFLIGHT_AMX_MULTIPLES_H

#include "amx_groups.h"
#include "written_panel.h"

#define SIGNED_WEIGHTS 0x80808080u /* what is turned over in four weights + 128 */

/* The panel as signed bytes, with zeros up to whole blocks of k. */
INLINE void write_panel(quantized_shape q, const uint8_t *panel, uint8_t *written) {
    const int64_t groups = ceil_div(q.row.width, q.row.group);
    uint8_t *line = written;
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t *group = panel + g * group_bytes(q), *steps = group + scales_bytes(q);
        const int64_t lines = ceil_div(group_values(q, g), 4);
        const group_multiples m = read_multiples(TILE_VECTORS, group);
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
            for (int64_t i = 0; i < lines; i += 2) {
                const uint8_t *step = steps + i / 2 * STEP_BYTES;
                uint8_t *to = line + i * LINE_BYTES + v * CACHE_LINE;
                store_words(to, half_written(&m, v, 0, step) ^ SIGNED_WEIGHTS);
                if (i + 1 < lines) store_words(to + LINE_BYTES, half_written(&m, v, 1, step) ^ SIGNED_WEIGHTS);
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

/* One block of k of a panel as signed bytes, of `vectors` vectors from `column` on; zeros are not needed behind the last
 * k, where rows have them. Each line that is read asks for `lines` of the stream (panels.h). */
INLINE void write_block(quantized_shape q, int vectors, int64_t k, const uint8_t *panel, int64_t column, int lines,
                        uint8_t *written) {
    const int64_t end = min_int(k + BLOCK_BYTES, q.row.width);
    while (k < end) {
        const int64_t g = k / q.row.group, first = g * q.row.group, stop = min_int(end, first + q.row.group);
        const uint8_t *group = panel + g * group_bytes(q);
        const uint8_t *step = group + scales_bytes(q) + (k - first) / 8 * STEP_BYTES + column * 4;
        const group_multiples m = read_multiples(vectors, group + column);
        if (lines) __builtin_prefetch(group + STREAM_AHEAD, 0, 2);
        for (; k < stop; k += 8, step += STEP_BYTES, written += 2 * vectors * CACHE_LINE) {
            UNROLL for (int v = 0; v < vectors; v++) {
                UNROLL for (int i = 0; i < lines; i++)
                    __builtin_prefetch(step + (v * lines + i) * CACHE_LINE + STREAM_AHEAD, 0, 2);
                UNROLL for (int half = 0; half < 2; half++)
                    store_words(written + (half * vectors + v) * CACHE_LINE,
                                half_written(&m, v, half, step) ^ SIGNED_WEIGHTS);
            }
        }
    }
}

/* As written_columns, of a panel that one tile meets: a block is written and multiplied before the next one. Neither
 * what is written nor what is read leaves the first-level cache so. */
INLINE void streamed_columns(quantized_shape q, int wide, int64_t tokens, const int8_t *x, const uint8_t *panel,
                             int64_t column, tile_output out) {
    const int64_t stride = digit_stride(q.row.width);
    const int vectors = wide ? TILE_VECTORS : TILE_VECTORS / 2, lines = wide ? 1 : column == 0 ? 2 : 0;
    _Alignas(64) uint8_t written[2][BLOCK_LINES * LINE_BYTES];
    i32x16 sums[AMX_ROWS][TILE_VECTORS];
    clear_tiles();
    for (int64_t k = 0; k < q.row.width; k += BLOCK_BYTES) {
        uint8_t *block = written[k / BLOCK_BYTES % 2];
        write_block(q, vectors, k, panel, column, lines, block);
        multiply_block(SIGNED_BYTES, wide, x + k, stride, block, CACHE_LINE, vectors * CACHE_LINE);
    }
    store_tiles(wide, sums, CACHE_LINE, sizeof sums[0]);
    finish_sums(one_scale(q), vectors, tokens, NULL, sums,
                panel + units_offset(q) + column * (int64_t)sizeof(float), out);
}

#endif
