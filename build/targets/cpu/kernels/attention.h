/* Attention over the paged cache with an online softmax (Dao et al., FlashAttention).
 *
 * A row walks the blocks of its sequence from position 0 (or from the block where its window begins); every block is
 * one step of the online softmax. Blocks in which a row sees nothing change none of its bits, so a row's result does
 * not depend on the rows that share its tile, on chunking, or on threads. A piece of work is one KV head and some
 * neighbouring rows of one sequence; all query heads of that KV head go together, so that keys and values are read
 * once for all. */
#ifndef INFLIGHT_ATTENTION_H
#define INFLIGHT_ATTENTION_H

#include "rope.h"

#define PIECE_QUERIES 48

typedef struct {
    cache_shape cache;
    int64_t num_heads, window; /* window 0: none */
    float scale;
} attention_shape;

INLINE int64_t heads_per_group(attention_shape s) { return s.num_heads / s.cache.num_kv_heads; }
INLINE int64_t rows_per_piece(attention_shape s) { return max_int(1, PIECE_QUERIES / heads_per_group(s)); }

/* Of each query (one row and head): the greatest score so far, the sum of its weights lane by lane, weighted values. */
typedef struct {
    float *maximum;
    f32x16 *totals;
    float *out;
} softmax_state;

/* A weight is 2^((score - maximum) * exponent_scale). */
INLINE float exponent_scale(attention_shape s) { return s.scale * 1.44269504f; }

/* The maximum grew: what was summed under the old one shrinks. */
INLINE void softmax_rescale(attention_shape s, float after, softmax_state state) {
    float before = *state.maximum;
    float shrink = before == -__builtin_inff() ? 0.0f : exp2_16(F32, splat((before - after) * exponent_scale(s)))[0];
    *state.maximum = after;
    *state.totals *= shrink;
    for (int64_t d = 0; d < padded_head(s.cache); d += LANES)
        store16(F32, state.out, d, load16(F32, state.out, d) * shrink);
}

/* One block's scores of one query, whose tokens begin at position `first`, become weights in the type in which the next
 * product reads them. */
INLINE void softmax_step(attention_shape s, int64_t first, int64_t position, const float *scores, void *weights,
                         softmax_state state) {
    const element act = act_type(s.cache.type);
    const int64_t vectors = s.cache.tokens_per_block / LANES;
    const int64_t low = s.window > 0 ? max_int(0, position - s.window + 1) : 0;
    const int whole = low <= first && first + s.cache.tokens_per_block <= position + 1;
    f32x16 block[vectors], high = splat(-__builtin_inff());
    i32x16 visible[vectors];
    for (int64_t v = 0; v < vectors; v++) {
        block[v] = load16(F32, scores, v * LANES);
        if (!whole) {
            i32x16 token = lane_numbers() + (int32_t)(first + v * LANES);
            visible[v] = (token <= (int32_t)position) & (token >= (int32_t)low);
            block[v] = select16(visible[v], block[v], splat(-__builtin_inff()));
        }
        high = __builtin_elementwise_max(high, block[v]);
    }
    if (any16(high > splat(*state.maximum))) softmax_rescale(s, max16(high), state);
    const float reference = *state.maximum == -__builtin_inff() ? 0.0f : *state.maximum * exponent_scale(s);
    for (int64_t v = 0; v < vectors; v++) {
        f32x16 weight = exp2_16(act, fma16(block[v], splat(exponent_scale(s)), splat(-reference)));
        if (!whole) weight = select16(visible[v], weight, splat(0.0f));
        store16(act, weights, v * LANES, weight);
        *state.totals += weight;
    }
}

/* Up to TILE_ROWS queries against one block; query i of the piece is row i / heads_per_group. */
INLINE void attend_block(attention_shape s, int64_t queries, int64_t first_query, int64_t first_position, int64_t first,
                         int64_t count, const void *q, const void *keys, const void *values, softmax_state state) {
    const cache_shape c = s.cache;
    const element act = act_type(c.type);
    const int64_t tokens = c.tokens_per_block, group = group_of(c.type), width = padded_head(c);
    float scores[TILE_ROWS * tokens], weights[TILE_ROWS * tokens];
    tile_product(c.type, queries, tokens, c.head_size, q, c.head_size, keys, tokens * group, scores, tokens, 0);
    for (int64_t i = 0; i < queries; i++)
        softmax_step(s, first, first_position + (first_query + i) / heads_per_group(s), scores + i * tokens,
                     at(act, weights, i * tokens),
                     (softmax_state){state.maximum + i, state.totals + i, state.out + i * width});
    tile_product(c.type, queries, width, count, weights, tokens, values, width * group, state.out, width, 1);
}

/* Into the second-level cache: blocks lie anywhere in memory, so the hardware cannot guess the next one. */
INLINE void prefetch_block(cache_shape c, const void *keys, const void *values) {
    for (int64_t i = 0; i < key_elements(c) * element_size(c.type); i += CACHE_LINE)
        __builtin_prefetch((const unsigned char *)keys + i, 0, 2);
    for (int64_t i = 0; i < value_elements(c) * element_size(c.type); i += CACHE_LINE)
        __builtin_prefetch((const unsigned char *)values + i, 0, 2);
}

/* `rows` rows of one sequence from `first_row`, one KV head. */
INLINE void attend_piece(attention_shape s, const token_rows *t, int64_t first_row, int64_t rows, int64_t kv_head,
                         const float *q, void *keys, void *values, element y_type, void *y) {
    const cache_shape c = s.cache;
    const element act = act_type(c.type);
    const int64_t d = c.head_size, width = padded_head(c), tokens = c.tokens_per_block, group = heads_per_group(s);
    const int64_t most = rows_per_piece(s) * group, queries = rows * group;
    float maximum[most], out[most * width], rounded[most * d];
    f32x16 totals[most];
    for (int64_t i = 0; i < queries; i++) {
        const float *query = q + ((first_row + i / group) * s.num_heads + kv_head * group + i % group) * d;
        scale_row(act, d, query, 1.0f, at(act, rounded, i * d));
        maximum[i] = -__builtin_inff();
        totals[i] = splat(0.0f);
        for (int64_t j = 0; j < width; j++) out[i * width + j] = 0.0f;
    }
    const int64_t position = t->positions[first_row], end = position + rows;
    const int64_t begin = s.window > 0 ? max_int(0, position - s.window + 1) : 0;
    const int32_t *table = t->block_tables + t->sequence_of_row[first_row] * t->block_table_stride;
    for (int64_t n = begin / tokens; n * tokens < end; n++) {
        const void *key = key_block(c, keys, table[n], kv_head), *value = value_block(c, values, table[n], kv_head);
        if ((n + 1) * tokens < end)
            prefetch_block(c, key_block(c, keys, table[n + 1], kv_head), value_block(c, values, table[n + 1], kv_head));
        for (int64_t i = 0; i < ceil_div(queries, TILE_ROWS); i++) {
            int64_t start = tile_start(queries, i), height = tile_start(queries, i + 1) - start;
            softmax_state state = {maximum + start, totals + start, out + start * width};
            attend_block(s, height, start, position, n * tokens, min_int(tokens, end - n * tokens),
                         at(act, rounded, start * d), key, value, state);
        }
    }
    for (int64_t i = 0; i < queries; i++) {
        int64_t place = ((first_row + i / group) * s.num_heads + kv_head * group + i % group) * d;
        scale_row(y_type, d, out + i * width, 1.0f / sum16(totals[i]), at(y_type, y, place));
    }
}

/* The rows of piece `item` of the list (sequence by sequence, KV head by KV head); 0 beyond its end. */
INLINE int64_t piece_rows(attention_shape s, const token_rows *t, int64_t item, int64_t *first_row) {
    const int64_t most = rows_per_piece(s);
    for (int64_t sequence = 0; sequence < t->num_sequences; sequence++) {
        int64_t start = t->sequence_starts[sequence], count = t->sequence_starts[sequence + 1] - start;
        int64_t pieces = ceil_div(count, most);
        if (item < pieces) {
            *first_row = start + item * most;
            return min_int(most, count - item * most);
        }
        item -= pieces;
    }
    return 0;
}

INLINE int64_t count_pieces(attention_shape s, const token_rows *t) {
    int64_t pieces = 0;
    for (int64_t sequence = 0; sequence < t->num_sequences; sequence++)
        pieces += ceil_div(t->sequence_starts[sequence + 1] - t->sequence_starts[sequence], rows_per_piece(s));
    return pieces;
}

/* q [rows][num_heads D] float32 -> y [rows][num_heads D] of y_type. The last rows of a prompt see most: they go first. */
INLINE void paged_attention(pool *p, int thread, attention_shape s, element y_type, const token_rows *t, const float *q,
                            void *keys, void *values, void *y) {
    (void)thread;
    const int64_t heads = s.cache.num_kv_heads, pieces = count_pieces(s, t);
    for (int64_t item; (item = pool_take(p)) < pieces * heads;) {
        int64_t first_row = 0, rows = piece_rows(s, t, pieces - 1 - item / heads, &first_row);
        attend_piece(s, t, first_row, rows, item % heads, q, keys, values, y_type, y);
    }
}

#endif
