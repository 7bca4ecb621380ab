/* The steps of a panel of integer weights (qshape.h) that a tile multiplies: their dot products, and what is prefetched
 * meanwhile. */
#ifndef INFLIGHT_QSTEPS_H
#define INFLIGHT_QSTEPS_H

#include "qdot.h"
#include "qshape.h"

/* The most bytes that a step may prefetch into the first-level cache. */
#define TRICKLE_BYTES 80
#define FIRST_BYTES 1024 /* of a panel, prefetched before a tile begins */

typedef i32x16 integer_sums[TILE_ROWS][TILE_VECTORS];

/* `x` is read here, and stays in its register. */
#if defined(__AVX512F__)
#define READ_HERE(x) __asm__("" : "+v"(x))
#else
#define READ_HERE(x) (void)(x)
#endif

/* Whether a tile of so many digit rows reads scales in front of its weights: registers hold both for one row. */
INLINE int scales_in_registers(quantized_shape q, int rows) {
#if defined(__AVX512F__)
    return rows == q.row.digits && !q.codes.digits && !has_multiples(q);
#else
    (void)q, (void)rows;
    return 0;
#endif
}

INLINE void add_quads(int bits, int rows, int vectors, const int8_t *x, int64_t x_stride, const u32x16 *columns,
                      integer_sums sums) {
    UNROLL for (int r = 0; r < rows; r++) {
        byte_quads quad = splat_quad(x + r * x_stride);
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = add_dots(bits, sums[r][v], columns[v], quad);
    }
}

INLINE void integer_step(int bits, int rows, int vectors, const int8_t *x, int64_t x_stride, const uint8_t *panel,
                         integer_sums sums) {
    u32x16 columns[TILE_VECTORS];
    if (bits == 8) {
        UNROLL for (int v = 0; v < vectors; v++) columns[v] = byte_weights(panel + v * 64);
        add_quads(bits, rows, vectors, x, x_stride, columns, sums);
        return;
    }
    UNROLL for (int v = 0; v < vectors; v++) columns[v] = lower_halves(load_words(panel + v * 64));
    add_quads(bits, rows, vectors, x, x_stride, columns, sums);
    __asm__("" : "+r"(panel)); /* read again: there are no registers to keep the first halves' neighbours in */
    UNROLL for (int v = 0; v < vectors; v++) columns[v] = upper_halves(load_words(panel + v * 64));
    add_quads(bits, rows, vectors, x + 4, x_stride, columns, sums);
}

/* A tile alone reads its panel at the memory's bandwidth: it prefetches the lines that it will read a little later, as
 * they lie in memory, each beside a read of its own. Prefetches that come several together hold up the reads behind them
 * (a core has few lines on their way at a time). */
INLINE int is_stream(const look_ahead *ahead) { return ahead->bytes == STEP_BYTES; }

INLINE void ask_for_line(const look_ahead *ahead, int line) {
    __builtin_prefetch(ahead->next + line * CACHE_LINE, 0, 2);
}

/* integer_step of a stream: a line is read once, and meets all rows before the next. */
INLINE void stream_step(int bits, int rows, const int8_t *x, int64_t x_stride, const uint8_t *panel, look_ahead *ahead,
                        integer_sums sums) {
    UNROLL for (int v = 0; v < TILE_VECTORS; v++) {
        ask_for_line(ahead, v);
        u32x16 words = bits == 8 ? byte_weights(panel + v * 64) : load_words(panel + v * 64);
        READ_HERE(words);
        UNROLL for (int half = 0; half < 8 / bits; half++) {
            const u32x16 weights = bits == 8 ? words : half ? upper_halves(words) : lower_halves(words);
            UNROLL for (int r = 0; r < rows; r++)
                sums[r][v] = add_dots(bits, sums[r][v], weights, splat_quad(x + r * x_stride + 4 * half));
        }
    }
    ahead->next += STEP_BYTES;
}

/* Steps that are prefetched together, of as many as a group has. Those of 8 bits are asked for one by one: their few
 * instructions leave no time in which more could wait. */
INLINE int asking_steps(int bits, int rows, int64_t steps) {
    return bits == 8 ? 1 : (int)max_int(1, min_int(steps, rows > 3 ? 4 : 2));
}

/* Prefetch so many steps of `ahead`: few bytes into the first-level cache, where no prefetch is dropped; many bytes
 * there would displace the tile's own reads. */
INLINE void ask_for_steps(int steps, look_ahead *ahead) {
    const int64_t bytes = ahead->bytes * steps;
    if (ahead->bytes <= TRICKLE_BYTES) {
        for (int64_t i = 0; i < bytes; i += CACHE_LINE) __builtin_prefetch(ahead->next + i, 0, 3);
    } else {
        for (int64_t i = 0; i < bytes; i += CACHE_LINE) __builtin_prefetch(ahead->next + i, 0, 2);
    }
    ahead->next += bytes;
}

/* Scales are a part of the stream. Those that are read behind their group's weights are asked for once more in front of
 * them, since the hardware follows a stream only in one direction. */
INLINE void ask_for_scales(quantized_shape q, int rows, const uint8_t *group, look_ahead *ahead) {
    if (!is_stream(ahead)) return;
    UNROLL for (int64_t i = 0; i < scales_bytes(q); i += CACHE_LINE) {
        __builtin_prefetch(ahead->next + i, 0, 2);
        if (!scales_in_registers(q, rows)) __builtin_prefetch(group + i, 0, 3);
    }
    ahead->next += scales_bytes(q);
}

/* sums = digits of group g times the weights of `vectors` columns; `panel` is the group's first step. */
INLINE void integer_group(quantized_shape q, int rows, int vectors, int64_t g, const int8_t *x, const uint8_t *panel,
                          look_ahead *ahead, integer_sums sums) {
    const int64_t stride = digit_stride(q.row.width), first = g * q.row.group, values = step_values(q);
    const int64_t steps = ceil_div(min_int(q.row.group, q.row.width - first), values);
    UNROLL for (int r = 0; r < rows; r++) {
        int32_t repair = -weight_offset(q.bits) * digit_sums(x + r * stride, q.row.width)[g];
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = splat_int(repair);
    }
    int64_t s = 0;
    if (is_stream(ahead) && vectors == TILE_VECTORS) {
        for (; s < steps; s++)
            stream_step(q.bits, rows, x + first + s * values, stride, panel + s * STEP_BYTES, ahead, sums);
        return;
    }
    const int asking = asking_steps(q.bits, rows, q.row.group / values);
    for (; s + asking <= steps; s += asking) {
        ask_for_steps(asking, ahead);
        for (int64_t i = s; i < s + asking; i++)
            integer_step(q.bits, rows, vectors, x + first + i * values, stride, panel + i * STEP_BYTES, sums);
    }
    for (; s < steps; s++)
        integer_step(q.bits, rows, vectors, x + first + s * values, stride, panel + s * STEP_BYTES, sums);
}

#endif
