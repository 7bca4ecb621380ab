/* Attention over the paged cache with an online softmax (Dao et al., FlashAttention).
 *
 * A row walks the blocks of its sequence from position 0 (or from the block where its window begins); every block is one
 * step of the online softmax. Blocks in which a row sees nothing change none of its bits, so a row's result does not
 * depend on the rows that share its tile, on chunking, or on threads. A piece of work is one KV head and some neighbouring
 * rows of one sequence; all query heads of that KV head go together, so that keys and values are read once for all. */
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

/* Running maximum, sum of weights and weighted values of one query (one row and head). */
typedef struct {
    float *maximum, *total, *out;
} softmax_state;

/* One block's scores of one query become weights, rounded to act as the next product reads them. */
INLINE void softmax_step(attention_shape s, int64_t first, int64_t position, const float *scores, void *weights,
                         float *maximum, float *total, float *out) {
    const element act = act_type(s.cache.type);
    const int64_t tokens = s.cache.tokens_per_block;
    const int64_t low = s.window > 0 ? max_int(0, position - s.window + 1) : 0;
    f32x16 masked[tokens / LANES], high = splat(-__builtin_inff()), sum = splat(0.0f);
    for (int64_t v = 0; v < tokens / LANES; v++) {
        i32x16 token = lane_numbers() + (int32_t)(first + v * LANES);
        i32x16 visible = (token <= (int32_t)position) & (token >= (int32_t)low);
        masked[v] = select16(visible, load16(F32, scores, v * LANES) * s.scale, splat(-__builtin_inff()));
        high = __builtin_elementwise_max(high, masked[v]);
    }
    float before = *maximum, after = __builtin_elementwise_max(before, max16(high));
    float reference = after == -__builtin_inff() ? 0.0f : after;
    for (int64_t v = 0; v < tokens / LANES; v++) {
        store16(act, weights, v * LANES, exp16(masked[v] - reference));
        sum += load16(act, weights, v * LANES);
    }
    if (after != before) {
        float shrink = exp16(splat(before - reference))[0];
        *total *= shrink;
        for (int64_t d = 0; d < padded_head(s.cache); d++) out[d] *= shrink;
    }
    *maximum = after;
    *total += sum16(sum);
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
                     at(act, weights, i * tokens), state.maximum + i, state.total + i, state.out + i * width);
    tile_product(c.type, queries, width, count, weights, tokens, values, width * group, state.out, width, 1);
}

/* `rows` rows of one sequence from `first_row`, one KV head. */
INLINE void attend_piece(attention_shape s, const token_rows *t, int64_t first_row, int64_t rows, int64_t kv_head,
                         const float *q, void *keys, void *values, element y_type, void *y) {
    const cache_shape c = s.cache;
    const element act = act_type(c.type);
    const int64_t d = c.head_size, width = padded_head(c), tokens = c.tokens_per_block, group = heads_per_group(s);
    const int64_t most = rows_per_piece(s) * group, queries = rows * group;
    float maximum[most], total[most], out[most * width], rounded[most * d];
    for (int64_t i = 0; i < queries; i++) {
        const float *query = q + ((first_row + i / group) * s.num_heads + kv_head * group + i % group) * d;
        for (int64_t j = 0; j < d; j++) store1(act, rounded, i * d + j, query[j]);
        maximum[i] = -__builtin_inff();
        total[i] = 0.0f;
        for (int64_t j = 0; j < width; j++) out[i * width + j] = 0.0f;
    }
    const int64_t position = t->positions[first_row], end = position + rows;
    const int64_t begin = s.window > 0 ? max_int(0, position - s.window + 1) : 0;
    const int32_t *table = t->block_tables + t->sequence_of_row[first_row] * t->block_table_stride;
    for (int64_t n = begin / tokens; n * tokens < end; n++) {
        const void *key = key_block(c, keys, table[n], kv_head), *value = value_block(c, values, table[n], kv_head);
        for (int64_t i = 0; i < ceil_div(queries, TILE_ROWS); i++) {
            int64_t start = tile_start(queries, i), height = tile_start(queries, i + 1) - start;
            softmax_state state = {maximum + start, total + start, out + start * width};
            attend_block(s, height, start, position, n * tokens, min_int(tokens, end - n * tokens),
                         at(act, rounded, start * d), key, value, state);
        }
    }
    for (int64_t i = 0; i < queries; i++) {
        int64_t place = ((first_row + i / group) * s.num_heads + kv_head * group + i % group) * d;
        for (int64_t j = 0; j < d; j++) store1(y_type, y, place + j, out[i * width + j] / total[i]);
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
