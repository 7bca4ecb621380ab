/* Attention over one split of a cache of floats, for a tile of queries.
 *
 * Scores of the whole split come first, and their maxima. Then the weights of 16 tokens are computed beside the
 * products of the 16 tokens before them: exponentials mostly use units that those leave idle. Meanwhile the next data
 * are prefetched: values during the scores, the next split's keys during the weighted values. */
#ifndef INFLIGHT_ATTENTION_FLOATS_H
#define INFLIGHT_ATTENTION_FLOATS_H

#include "attention_softmax.h"
#include "attention_tile.h"

/* A tile and its split. `next`: the split whose keys are needed after this one, or NULL where another tile has
 * prefetched them and this split's values. */
typedef struct {
    attention_shape shape;
    int rows;
    cache_regions cache;
    const split_view *view, *next;
    const visible_tokens *seen; /* of each query */
} float_tile;

/* Scores of `vectors` vectors from `v` on: they are finished, what a query does not see is hidden, the rest counts for its
 * maximum. */
INLINE void keep_scores(const float_tile *t, int vectors, int64_t v, query_sums sums, float *scores, f32x16 *greatest) {
    const int rows = t->rows;
    if (finishes_scores(t->shape))
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < vectors; i++)
                sums[r][i] = finish_scores(t->shape, t->seen[r], v + i, sums[r][i]);
    if (v < first_whole(t->seen[rows - 1]) || v + vectors > end_whole(t->seen[0]))
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < vectors; i++) sums[r][i] = hide_vector(t->seen[r], v + i, sums[r][i]);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < vectors; i++) greatest[r] = greater16(sums[r][i], greatest[r]);
    store_sums(rows, vectors, sums, scores + v * LANES, split_tokens(t->shape.cache));
}

/* scores[row][token of the split] = q . key from the first block that is not skipped, in whole vectors, and the
 * greatest of each row. */
INLINE void split_scores(const float_tile *t, const void *q, float *scores, float *maxima) {
    const cache_shape s = t->shape.cache;
    const int64_t tokens = s.tokens_per_block, group = cache_group(s.type), d = round_up(s.head_size, group);
    f32x16 greatest[QUERY_TILE];
    UNROLL for (int r = 0; r < t->rows; r++) greatest[r] = splat(-__builtin_inff());
    for (int64_t n = t->view->skip; n < t->view->end; n++) {
        const unsigned char *keys = key_block(s, t->cache.keys, t->view->blocks[n], t->view->head), *ahead = keys;
        if (t->next) ahead = split_block(s, t->cache, t->view, n);
        const int64_t vectors = ceil_div(block_tokens(s, t->view, n), LANES);
        query_sums sums;
        for (int64_t v = 0; v < vectors;) {
#define SCORE(width)                                                                                                  \
    clear_sums(t->rows, width, sums);                                                                                 \
    add_float_products(s.type, t->rows, width, d / group, q, d, at(s.type, keys, v * LANES * group), tokens * group,  \
                       ahead + v * (d / group) * step_bytes(s.type, 1), sums);                                        \
    keep_scores(t, width, n * tokens / LANES + v, sums, scores, greatest);                                            \
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
    UNROLL for (int r = 0; r < t->rows; r++) maxima[r] = greatest16(greatest[r]);
}

/* Scores become weights. */
typedef struct {
    const float *scores;
    void *weights;             /* in the type in which the next product reads them */
    float offsets[QUERY_TILE]; /* exponent_offset of each query */
    f32x16 sums[QUERY_TILE];
} weighing;

/* Vector `v` of the weights of row `r`. */
INLINE void weigh(attention_shape s, int r, int64_t v, weighing *w) {
    const element act = act_type(s.cache.type);
    const int64_t place = r * split_tokens(s.cache) + v * LANES;
    const f32x16 weight = weights_at(s, act, w->scores, place, w->offsets[r]);
    store16(act, w->weights, place, weight);
    w->sums[r] += weight;
}

/* The next split's keys that are prefetched while columns from `column` on of value block `n` are read; `values`, which
 * are read anyway, when there are none. */
INLINE const unsigned char *keys_ahead(const float_tile *t, int64_t n, int64_t column, const unsigned char *values) {
    const cache_shape s = t->shape.cache;
    const int64_t index = t->next ? t->next->skip + n - t->view->skip : 0;
    if (!t->next || index >= t->next->end) return values;
    const unsigned char *keys = key_block(s, t->cache.keys, t->next->blocks[index], t->next->head);
    return keys + column * s.tokens_per_block * element_size(s.type);
}

_Static_assert(QUERY_TILE <= LANES / 2, "a row of weights for every group of a vector of tokens");

/* sums += the values of the 16 tokens of vector `v`, beside the weights of vector v + 1. */
INLINE void weigh_beside(const float_tile *t, int vectors, int64_t v, const unsigned char *values,
                         const unsigned char *ahead, weighing *w, query_sums sums) {
    const element type = t->shape.cache.type;
    const int64_t group = cache_group(type), stride = padded_head(t->shape.cache) * group;
    UNROLL for (int g = 0; g < LANES / group; g++) {
        if (g < t->rows) weigh(t->shape, g, v + 1, w);
        add_float_group(type, t->rows, vectors, at(act_type(type), w->weights, v * LANES + g * group),
                        split_tokens(t->shape.cache), at(type, values, g * stride),
                        ahead + g * step_bytes(type, vectors), sums);
    }
}

/* The first columns of the weighted values; scores become weights on the way. */
INLINE void weigh_columns(const float_tile *t, int vectors, weighing *w, float *out) {
    const cache_shape s = t->shape.cache;
    const int64_t per_block = s.tokens_per_block / LANES, group = cache_group(s.type), width = padded_head(s);
    const int64_t last = ceil_div(t->view->tokens, LANES) - 1;
    query_sums sums;
    clear_sums(t->rows, vectors, sums);
    if (t->view->skip < t->view->end)
        UNROLL for (int r = 0; r < t->rows; r++) weigh(t->shape, r, t->view->skip * per_block, w);
    for (int64_t n = t->view->skip; n < t->view->end; n++) {
        const unsigned char *values = split_block(s, t->cache, t->view, n);
        const unsigned char *ahead = keys_ahead(t, n, 0, values);
        for (int64_t v = n * per_block; v < (n + 1) * per_block && v < last; v++) {
            weigh_beside(t, vectors, v, values, ahead, w, sums);
            values = at(s.type, values, LANES * width);
            ahead += LANES / group * step_bytes(s.type, vectors);
        }
        if (last < (n + 1) * per_block)
            add_float_products(s.type, t->rows, vectors, ceil_div(t->view->tokens - last * LANES, group),
                               at(act_type(s.type), w->weights, last * LANES), split_tokens(s), values, width * group,
                               ahead, sums);
    }
    store_sums(t->rows, vectors, sums, out, width);
}

INLINE void value_columns(const float_tile *t, int vectors, int64_t column, const void *weights, float *out) {
    const cache_shape s = t->shape.cache;
    const int64_t tokens = s.tokens_per_block, group = cache_group(s.type), width = padded_head(s);
    query_sums sums;
    clear_sums(t->rows, vectors, sums);
    for (int64_t n = t->view->skip; n < t->view->end; n++) {
        const unsigned char *values = split_block(s, t->cache, t->view, n);
        add_float_products(s.type, t->rows, vectors, ceil_div(block_tokens(s, t->view, n), group),
                           at(act_type(s.type), weights, n * tokens), split_tokens(s),
                           at(s.type, values, column * group), width * group, keys_ahead(t, n, column, values), sums);
    }
    store_sums(t->rows, vectors, sums, out + column, width);
}

/* totals[row] = the sum of the weights that scores become, out[row][padded head] = the values weighted by them. */
INLINE void split_values(const float_tile *t, const float *scores, const float *maxima, float *totals, float *out) {
    const cache_shape s = t->shape.cache;
    const int64_t vectors = padded_head(s) / LANES, first = min_int(vectors, WEIGHING_VECTORS);
    float weights[QUERY_TILE * split_tokens(s)] __attribute__((aligned(CACHE_LINE)));
    weighing w = {.scores = scores, .weights = weights};
    UNROLL for (int r = 0; r < t->rows; r++)
        w.offsets[r] = exponent_offset(t->shape, maxima[r]), w.sums[r] = splat(0.0f);
    weigh_columns(t, (int)first, &w, out);
    UNROLL for (int r = 0; r < t->rows; r++) totals[r] = sum16(w.sums[r]);
    for (int64_t v = first; v + QUERY_VECTORS <= vectors; v += QUERY_VECTORS)
        value_columns(t, QUERY_VECTORS, v * LANES, weights, out);
    const int rest = (int)((vectors - first) % QUERY_VECTORS);
    if (rest) value_columns(t, rest, (vectors - rest) * LANES, weights, out);
}

#endif
