/* The products of attention over one split of a cache of integers: exact, so the same bits on every machine.
 *
 * A query is rounded to 16 bits once, the weights of a split, times the scales of their values, once for each split:
 * two signed digits each (quantize.h), which meet the levels of the cache byte by byte (qdot.h). Scores and weighted
 * values are the integers times float32 scales. Two levels of four bits in a byte (cache.h) are parted when they are
 * loaded. */
#ifndef INFLIGHT_ATTENTION_INTEGERS_H
#define INFLIGHT_ATTENTION_INTEGERS_H

#include "attention_softmax.h"
#include "attention_tile.h"
#include "qdot.h"

#define GREATEST_LEVEL 32639.0f /* 127 * 256 + 127 */

#if defined(__AVX512F__)
#define DIGIT_QUERIES QUERY_TILE
#define DIGIT_VECTORS 2
#else
#define DIGIT_QUERIES 3
#define DIGIT_VECTORS 1
#endif

typedef i32x16 digit_products[DIGIT_QUERIES][2][DIGIT_VECTORS];

/* Rows of two digits: row r's high digits at digits + r * row_stride, its low ones digit_stride behind; a row is
 * (256 high + low) * scales[r], and offsets[r] is what the offset of the levels adds to its integer products. */
typedef struct {
    const int8_t *digits;
    int64_t row_stride, digit_stride;
    const float *scales;
    const int32_t *offsets;
} digit_rows;

INLINE i32x16 add_quad(int bits, i32x16 sum, u32x16 levels, const int8_t *quad) {
#if defined(__AVX512VNNI__)
    (void)bits;
    /* As add_pair of attention_tile.h: the digits are broadcast inside the instruction. */
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(levels), "m"(*(const uint32_t *)quad));
    return sum;
#else
    return add_dots(bits, sum, levels, splat_quad(quad));
#endif
}

/* 16 columns of four levels each; of four bits those in the lower or in the upper half of the bytes at p. */
INLINE u32x16 level_columns(element type, const uint8_t *p, int64_t upper) {
    if (type == I8) return byte_weights(p);
    return load_words(p) >> (uint32_t)(4 * upper) & 0x0f0f0f0fu;
}

/* sums[row][digit][vector] += the digits of four of k with those of the columns. */
INLINE void add_level_products(element type, int rows, int vector, u32x16 columns, digit_rows q, const int8_t *digits,
                      digit_products sums) {
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int digit = 0; digit < 2; digit++)
            sums[r][digit][vector] = add_quad(level_bits(type), sums[r][digit][vector], columns,
                                              digits + r * q.row_stride + digit * q.digit_stride);
}

INLINE void clear_products(int rows, int vectors, digit_products sums) {
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int digit = 0; digit < 2; digit++)
            UNROLL for (int v = 0; v < vectors; v++) sums[r][digit][v] = splat_int(0);
}

/* The integer product of a row: less than 2^31, whatever wraps on the way. */
INLINE f32x16 whole_product(i32x16 high, i32x16 low, int32_t offset) {
    u32x16 product = ((u32x16)high << 8) + (u32x16)low - (u32x16)splat_int(offset);
    return __builtin_convertvector((i32x16)product, f32x16);
}

/* Digits behind the head are zeros (quantize.h), as many as a last byte of four bits may want. */
INLINE void block_scores(cache_shape s, int rows, int vectors, digit_rows q, const uint8_t *levels,
                         const float *scales, float *c) {
    const int64_t halves = levels_per_byte(s.type), lines = ceil_div(s.head_size, 4 * halves);
    digit_products sums;
    clear_products(rows, vectors, sums);
    for (int64_t i = 0; i < lines; i++)
        UNROLL for (int half = 0; half < halves; half++)
            UNROLL for (int v = 0; v < vectors; v++)
                add_level_products(s.type, rows, v, level_columns(s.type, levels + i * s.tokens_per_block * 4 + v * 64, half), q,
                          q.digits + 4 * (halves * i + half), sums);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            store16(F32, c, r * split_tokens(s) + v * LANES,
                    whole_product(sums[r][0][v], sums[r][1][v], q.offsets[r]) *
                        (load16(F32, scales, v * LANES) * q.scales[r]));
}

INLINE digit_rows rows_from(digit_rows rows, int64_t first) {
    return (digit_rows){rows.digits + first * rows.row_stride, rows.row_stride, rows.digit_stride, rows.scales + first,
                        rows.offsets + first};
}

/* scores[row][token of the split], as split_scores of attention_tile.h. */
INLINE void level_scores(cache_shape s, int rows, digit_rows q, cache_regions cache, const split_view *view,
                             int prefetch, float *scores) {
    for (int64_t n = view->skip; n < view->end; n++) {
        void *keys = key_block(s, cache.keys, view->blocks[n], view->head);
        const int64_t vectors = ceil_div(block_tokens(s, view, n), LANES);
        if (prefetch) prefetch_values(s, cache, view, n);
        for (int64_t v = 0; v < vectors;) {
            const int pair = DIGIT_VECTORS >= 2 && v + 2 <= vectors;
            const uint8_t *levels = (const uint8_t *)keys + v * 64;
            const float *scales = key_scales(s, keys) + v * LANES;
            UNROLL for (int r = 0; r < rows; r += DIGIT_QUERIES) {
                const int count = rows - r < DIGIT_QUERIES ? rows - r : DIGIT_QUERIES;
                float *c = scores + r * split_tokens(s) + n * s.tokens_per_block + v * LANES;
                if (pair) block_scores(s, count, DIGIT_VECTORS, rows_from(q, r), levels, scales, c);
                else block_scores(s, count, 1, rows_from(q, r), levels, scales, c);
            }
            v += pair ? 2 : 1;
        }
    }
}

/* The scores of one query become weights times the scales of their values, in digits; total is the sum of the weights
 * alone. Returns the scale of the digits. */
INLINE float digit_weights(attention_shape s, visible_tokens seen, const float *value_scale, float *scores,
                               int8_t *digits, int64_t digit_stride, int32_t *offset, float *maximum, float *total) {
    *maximum = greatest_score(s, seen, scores);
    const float reference = exponent_offset(s, *maximum);
    f32x16 sum = splat(0.0f), greatest = splat(0.0f);
    for (int64_t v = seen.from; v < seen.to; v++) {
        f32x16 weight = weights_at(s, F32, scores, v * LANES, reference);
        f32x16 scaled = weight * load16(F32, value_scale, v * LANES);
        if (v < first_whole(seen) || v >= end_whole(seen)) scaled = select16(weight > splat(0.0f), scaled, splat(0.0f));
        store16(F32, scores, v * LANES, scaled);
        sum += weight;
        /* Scales of four bits may be negative. */
        if (s.cache.type == I4) scaled = (f32x16)((u32x16)scaled & 0x7fffffffu);
        greatest = greater16(scaled, greatest);
    }
    *total = sum16(sum);
    const float scale = greatest16(greatest) / GREATEST_LEVEL;
    const float inverse = scale < SMALLEST_NORMAL ? 0.0f : 1.0f / scale;
    i32x16 levels = splat_int(0);
    for (int64_t v = seen.from; v < seen.to; v++) {
        i32x16 level = round_to_int(load16(F32, scores, v * LANES) * inverse);
        store_bytes(digits + v * LANES, (level + 128) >> 8);
        store_bytes(digits + digit_stride + v * LANES, level);
        levels += level;
    }
    *offset = weight_offset(level_bits(s.cache.type)) * __builtin_reduce_add(levels);
    return scale < SMALLEST_NORMAL ? 0.0f : scale;
}

/* Columns from `column` on; two vectors of four bits are those of the same bytes. */
INLINE void weighted_level_columns(cache_shape s, int rows, int vectors, int64_t column, digit_rows weights,
                              cache_regions cache, const split_view *view, const split_view *next, float *out) {
    const int64_t tokens = s.tokens_per_block, width = padded_head(s), together = levels_per_byte(s.type);
    const int64_t first = column / (LANES * together) * LANES * 4, upper = column / LANES % together;
    digit_products sums;
    clear_products(rows, vectors, sums);
    for (int64_t n = view->skip; n < view->end; n++) {
        const uint8_t *values = split_block(s, cache, view, n);
        if (next) prefetch_next_keys(s, cache.keys, next, n - view->skip);
        for (int64_t i = 0; i < ceil_div(block_tokens(s, view, n), 4); i++)
            UNROLL for (int v = 0; v < vectors; v++) {
                const uint8_t *line = values + i * value_line(s) + first + v / together * 64;
                add_level_products(s.type, rows, v, level_columns(s.type, line, upper + v % together), weights,
                          weights.digits + n * tokens + 4 * i, sums);
            }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            store16(F32, out, r * width + column + v * LANES,
                    whole_product(sums[r][0][v], sums[r][1][v], weights.offsets[r]) * weights.scales[r]);
}

/* out[row][padded head], as split_values of attention_tile.h. */
INLINE void weighted_levels(cache_shape s, int rows, digit_rows weights, cache_regions cache, const split_view *view,
                             const split_view *next, float *out) {
    UNROLL for (int r = 0; r < rows; r += DIGIT_QUERIES) {
        const int count = rows - r < DIGIT_QUERIES ? rows - r : DIGIT_QUERIES;
        for (int64_t column = 0; column < padded_head(s);) {
            const split_view *wanted = r == 0 && column == 0 ? next : NULL;
            const int pair = DIGIT_VECTORS >= 2 && column + 2 * LANES <= padded_head(s);
            float *c = out + r * padded_head(s);
            if (pair) weighted_level_columns(s, count, DIGIT_VECTORS, column, rows_from(weights, r), cache, view, wanted, c);
            else weighted_level_columns(s, count, 1, column, rows_from(weights, r), cache, view, wanted, c);
            column += pair ? 2 * LANES : LANES;
        }
    }
}

#endif
