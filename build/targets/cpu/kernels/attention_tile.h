/* The two products of attention over one split of the cache, for a tile of queries: scores and weighted values.
 *
 * As in tile.h an accumulator is one chain, over the head size for a score and over the split's tokens for a weighted
 * value, so its bits do not depend on the queries beside it. */
#ifndef INFLIGHT_ATTENTION_TILE_H
#define INFLIGHT_ATTENTION_TILE_H

#include "attention_work.h"

#if defined(__AVX512F__)
#define QUERY_TILE 7 /* with 4 vectors of columns: 28 accumulators of 32 registers */
#define QUERY_VECTORS 4
#else
#define QUERY_TILE 6
#define QUERY_VECTORS 1
#endif

typedef f32x16 query_sums[QUERY_TILE][QUERY_VECTORS];

/* A split of one sequence as one KV head sees it: blocks `skip` to `end` of it, `tokens` tokens from its first. What lies
 * before and behind is hidden from every row. */
typedef struct {
    const int32_t *blocks;
    int64_t head, skip, end, tokens;
} split_view;

typedef struct {
    void *keys, *values;
} cache_regions;

/* Towards the second-level cache: blocks lie anywhere in memory, so the hardware cannot guess the next one. Keys are
 * asked for while the split before is worked on, values while scores are. */
INLINE void prefetch_keys(cache_shape s, void *keys, const split_view *view, int64_t block) {
    const unsigned char *p = key_block(s, keys, view->blocks[block], view->head);
    for (int64_t i = 0; i < key_elements(s) * element_size(s.type); i += CACHE_LINE) __builtin_prefetch(p + i, 0, 2);
}

/* Key block `index` of a split, if it has so many. */
INLINE void prefetch_next_keys(cache_shape s, void *keys, const split_view *next, int64_t index) {
    if (next->skip + index < next->end) prefetch_keys(s, keys, next, next->skip + index);
}

INLINE void prefetch_values(cache_shape s, void *values, const split_view *view, int64_t block) {
    const unsigned char *p = value_block(s, values, view->blocks[block], view->head);
    for (int64_t i = 0; i < value_elements(s) * element_size(s.type); i += CACHE_LINE) __builtin_prefetch(p + i, 0, 2);
}

INLINE int64_t block_tokens(cache_shape s, const split_view *view, int64_t block) {
    return min_int(s.tokens_per_block, view->tokens - block * s.tokens_per_block);
}

#if !defined(PAIRS_IN_HALVES)
/* sum + the products of a pair of k with 16 columns. */
INLINE f32x16 add_pair(f32x16 sum, bf16_pairs columns, const uint16_t *pair) {
#if defined(__AVX512BF16__)
    /* The pair is broadcast inside the instruction: kept in registers, pairs would push accumulators out of them. */
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(columns), "m"(*(const uint32_t *)pair));
    return sum;
#else
    return add_products(sum, splat_pair(load_pair(pair)), columns);
#endif
}
#endif

INLINE void query_step(element type, int rows, int vectors, const float *a, int64_t a_stride, const void *line,
                       query_sums sums) {
    f32x16 columns[QUERY_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) columns[v] = load16(type, line, v * LANES);
    UNROLL for (int r = 0; r < rows; r++) {
        f32x16 x = splat(a[r * a_stride]);
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = fma16(x, columns[v], sums[r][v]);
        keep_order();
    }
}

INLINE void query_step_pairs(int rows, int vectors, const uint16_t *a, int64_t a_stride, const void *line,
                             query_sums sums) {
#if defined(PAIRS_IN_HALVES)
    UNROLL for (int second = 0; second < 2; second++) {
        f32x16 columns[QUERY_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
            columns[v] = pair_half(load_pairs((const unsigned char *)line + v * 64), second);
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 x = pair_half(splat_pair_at(a + r * a_stride), second);
            UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = fma16(x, columns[v], sums[r][v]);
            keep_order();
        }
    }
#else
    UNROLL for (int v = 0; v < vectors; v++) {
        bf16_pairs columns = load_pairs((const unsigned char *)line + v * 64);
        UNROLL for (int r = 0; r < rows; r++) sums[r][v] = add_pair(sums[r][v], columns, a + r * a_stride);
    }
#endif
}

/* sums[row][vector] += a[row][k] b[k][columns] over `groups` groups of k. Strides are in elements. */
INLINE void add_float_products(element type, int rows, int vectors, int64_t groups, const void *a, int64_t a_stride,
                               const void *b, int64_t b_stride, query_sums sums) {
    _Pragma("clang loop unroll_count(2)") for (int64_t g = 0; g < groups; g++) {
        const void *line = at(type, b, g * b_stride);
        if (type != BF16) query_step(type, rows, vectors, (const float *)a + g, a_stride, line, sums);
        else query_step_pairs(rows, vectors, (const uint16_t *)a + 2 * g, a_stride, line, sums);
    }
}

INLINE void clear_sums(int rows, int vectors, query_sums sums) {
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = splat(0.0f);
}

INLINE void store_sums(int rows, int vectors, query_sums sums, float *c, int64_t c_stride) {
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) store16(F32, c, r * c_stride + v * LANES, sums[r][v]);
}

/* scores[row][token of the split] = q . key, for the tokens from the first block that is not skipped, in whole vectors. */
INLINE void split_scores(cache_shape s, int rows, const void *q, cache_regions cache, const split_view *view,
                         int prefetch, float *scores) {
    const int64_t tokens = s.tokens_per_block, group = cache_group(s.type), d = round_up(s.head_size, group);
    for (int64_t n = view->skip; n < view->end; n++) {
        const void *keys = key_block(s, cache.keys, view->blocks[n], view->head);
        if (prefetch) prefetch_values(s, cache.values, view, n);
        const int64_t vectors = ceil_div(block_tokens(s, view, n), LANES);
        query_sums sums;
        for (int64_t v = 0; v < vectors;) {
            const void *columns = at(s.type, keys, v * LANES * group);
            float *c = scores + n * tokens + v * LANES;
#define SCORE(width)                                                                                  \
    clear_sums(rows, width, sums);                                                                    \
    add_float_products(s.type, rows, width, d / group, q, d, columns, tokens * group, sums);          \
    store_sums(rows, width, sums, c, split_tokens(s));                                                \
    v += width
            if (QUERY_VECTORS >= 4 && tokens >= 4 * LANES && v + 4 <= vectors) {
                SCORE(4);
            } else if (QUERY_VECTORS >= 2 && v + 2 <= vectors) {
                SCORE(2);
            } else {
                SCORE(1);
            }
#undef SCORE
        }
    }
}

INLINE void value_columns(cache_shape s, int rows, int vectors, int64_t column, const void *weights,
                          cache_regions cache, const split_view *view, const split_view *next, float *out) {
    const int64_t tokens = s.tokens_per_block, group = cache_group(s.type), width = padded_head(s);
    query_sums sums;
    clear_sums(rows, vectors, sums);
    for (int64_t n = view->skip; n < view->end; n++) {
        const void *values = value_block(s, cache.values, view->blocks[n], view->head);
        if (next) prefetch_next_keys(s, cache.keys, next, n - view->skip);
        add_float_products(s.type, rows, vectors, ceil_div(block_tokens(s, view, n), group),
                           at(act_type(s.type), weights, n * tokens), split_tokens(s),
                           at(s.type, values, column * group), width * group, sums);
    }
    store_sums(rows, vectors, sums, out + column, width);
}

/* out[row][padded head] = the values weighted by weights[row][token of the split]. */
INLINE void split_values(cache_shape s, int rows, const void *weights, cache_regions cache, const split_view *view,
                         const split_view *next, float *out) {
    const int64_t vectors = padded_head(s) / LANES, whole = vectors / QUERY_VECTORS * QUERY_VECTORS;
    for (int64_t v = 0; v < whole; v += QUERY_VECTORS)
        value_columns(s, rows, QUERY_VECTORS, v * LANES, weights, cache, view, v ? NULL : next, out);
    if (whole < vectors)
        value_columns(s, rows, (int)(vectors - whole), whole * LANES, weights, cache, view, whole ? NULL : next, out);
}

#endif
