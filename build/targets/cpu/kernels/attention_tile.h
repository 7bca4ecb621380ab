/* A tile of queries against lines of the cache: what both products of attention, scores and weighted values, are made
 * of.
 *
 * As in tile.h an accumulator is one chain, over the head size for a score and over the split's tokens for a weighted
 * value, so its bits do not depend on the queries beside it. */
#ifndef INFLIGHT_ATTENTION_TILE_H
#define INFLIGHT_ATTENTION_TILE_H

#include "attention_work.h"

#if defined(__AVX512F__)
#define QUERY_TILE 7 /* with 4 vectors of columns: 28 accumulators of 32 registers */
#define QUERY_VECTORS 4
#define WEIGHING_VECTORS 2 /* the others hold a step of the softmax */
#else
#define QUERY_TILE 6
#define QUERY_VECTORS 1
#define WEIGHING_VECTORS 1
#endif

typedef f32x16 query_sums[QUERY_TILE][QUERY_VECTORS];

/* A split of one sequence as one KV head sees it: blocks `skip` to `end` of it, `tokens` tokens from its first. What lies
 * before and behind is hidden from every row. */
typedef struct {
    const int32_t *blocks;
    int64_t head, skip, end, tokens;
} split_view;

typedef struct {
    void *keys, *values; /* of latent rows: the values of the split in hand, block by block */
} cache_regions;

/* The values of block `block` of a split. */
INLINE void *split_block(cache_shape s, cache_regions cache, const split_view *view, int64_t block) {
    if (s.latent) return at(s.type, cache.values, block * value_elements(s));
    return value_block(s, cache.values, view->blocks[block], view->head);
}

/* Prefetch into the second-level cache: blocks lie anywhere in memory, so the hardware cannot predict the next one.
 * Keys are prefetched during the split before, values during the scores. */
INLINE void prefetch_keys(cache_shape s, void *keys, const split_view *view, int64_t block) {
    const unsigned char *p = key_block(s, keys, view->blocks[block], view->head);
    for (int64_t i = 0; i < key_elements(s) * element_size(s.type); i += CACHE_LINE) __builtin_prefetch(p + i, 0, 2);
}

/* Key block `index` of a split, if it has so many. */
INLINE void prefetch_next_keys(cache_shape s, void *keys, const split_view *next, int64_t index) {
    if (next->skip + index < next->end) prefetch_keys(s, keys, next, next->skip + index);
}

INLINE void prefetch_values(cache_shape s, cache_regions cache, const split_view *view, int64_t block) {
    if (s.latent) return;
    const unsigned char *p = split_block(s, cache, view, block);
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

INLINE void query_step_pairs(element type, int rows, int vectors, const uint16_t *a, int64_t a_stride,
                             const void *line, query_sums sums) {
#if defined(PAIRS_IN_HALVES)
    UNROLL for (int second = 0; second < 2; second++) {
        f32x16 columns[QUERY_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
            columns[v] = type == E4M3 ? e4m3_half((const unsigned char *)line + v * 32, second)
                                      : pair_half(load_pairs((const unsigned char *)line + v * 64), second);
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 x = pair_half(splat_pair_at(a + r * a_stride), second);
            UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = fma16(x, columns[v], sums[r][v]);
            keep_order();
        }
    }
#else
    UNROLL for (int v = 0; v < vectors; v++) {
        bf16_pairs columns = type == E4M3 ? (bf16_pairs)e4m3_pairs((const unsigned char *)line + v * 32)
                                          : load_pairs((const unsigned char *)line + v * 64);
        UNROLL for (int r = 0; r < rows; r++) sums[r][v] = add_pair(sums[r][v], columns, a + r * a_stride);
    }
#endif
}

/* The bytes that a step over one group of k reads. */
INLINE int64_t step_bytes(element type, int vectors) {
    return vectors * LANES * cache_group(type) * element_size(type);
}

/* sums[row][vector] += a[row][k] b[k][columns] for one group of k. Prefetches as many bytes at `ahead` into
 * the second-level cache: scores read as many keys as weighted values read values, so prefetching is even. */
INLINE void add_float_group(element type, int rows, int vectors, const void *a, int64_t a_stride, const void *line,
                            const unsigned char *ahead, query_sums sums) {
    UNROLL for (int64_t i = 0; i < step_bytes(type, vectors); i += CACHE_LINE) __builtin_prefetch(ahead + i, 0, 2);
    if (in_pairs(type)) query_step_pairs(type, rows, vectors, a, a_stride, line, sums);
    else query_step(type, rows, vectors, a, a_stride, line, sums);
}

/* The same over `groups` groups. Strides are in elements. */
INLINE void add_float_products(element type, int rows, int vectors, int64_t groups, const void *a, int64_t a_stride,
                               const void *b, int64_t b_stride, const unsigned char *ahead, query_sums sums) {
    const int64_t group = cache_group(type);
    _Pragma("clang loop unroll_count(2)") for (int64_t g = 0; g < groups; g++)
        add_float_group(type, rows, vectors, at(act_type(type), a, g * group), a_stride, at(type, b, g * b_stride),
                        ahead + g * step_bytes(type, vectors), sums);
}

INLINE void clear_sums(int rows, int vectors, query_sums sums) {
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = splat(0.0f);
}

INLINE void store_sums(int rows, int vectors, query_sums sums, float *c, int64_t c_stride) {
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) store16(F32, c, r * c_stride + v * LANES, sums[r][v]);
}

#endif
