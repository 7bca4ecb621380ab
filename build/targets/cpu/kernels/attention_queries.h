/* A tile of queries against one split: scores, softmax, weighted values, in floats or in integers. */
#ifndef INFLIGHT_ATTENTION_QUERIES_H
#define INFLIGHT_ATTENTION_QUERIES_H

#include "attention_floats.h"
#include "latent.h"
#include "attention_integers.h"

#if defined(__AMX_BF16__)
#include "attention_amx.h"
#endif

/* A piece in the hands of a thread, its queries as the products read them: elements of act_type, a missing last k as
 * zero, or the digits of a cache of integers. Query i is row i / heads_per_group of the piece. */
typedef struct {
    const token_rows *rows;
    const attention_piece *piece;
    int64_t kv_head;
    cache_regions cache;
    const void *queries;
    const float *scales;
    const int32_t *offsets;
} piece_view;

INLINE quantized_row query_digits(attention_shape s) {
    return (quantized_row){2, s.cache.head_size, s.cache.head_size};
}

/* Whether products are those of tiles of AMX. */
INLINE int in_amx_tiles(attention_shape s) {
#if defined(__AMX_BF16__)
    return s.cache.type == BF16;
#else
    (void)s;
    return 0;
#endif
}

/* Queries of one tile, at most. */
INLINE int64_t query_tile(attention_shape s) { return in_amx_tiles(s) ? LANES : QUERY_TILE; }

/* Elements of a query, with zeros behind the head. */
INLINE int64_t query_values(attention_shape s) {
#if defined(__AMX_BF16__)
    if (in_amx_tiles(s)) return amx_query_values(s.cache.head_size);
#endif
    return round_up(s.cache.head_size, cache_group(s.cache.type));
}

INLINE int64_t query_bytes(attention_shape s) {
    const element type = s.cache.type;
    if (has_levels(type)) return 2 * digit_stride(s.cache.head_size);
    return query_values(s) * element_size(act_type(type));
}

/* One query to `bytes`; scale and offset are those of its digits. */
INLINE void load_query(attention_shape s, const float *query, void *bytes, float *scale, int32_t *offset) {
    const int64_t d = s.cache.head_size;
    if (has_levels(s.cache.type)) {
        float spread[d];
        if (s.cache.type == I4) spread_head(d, query, spread), query = spread;
        quantize_row(query_digits(s), (row_values){F32, query, NULL, 1.0f}, bytes, scale);
        const int32_t high = *digit_sums(bytes, d), low = *digit_sums((int8_t *)bytes + digit_stride(d), d);
        *offset = weight_offset(level_bits(s.cache.type)) * (256 * high + low);
        return;
    }
    const element act = act_type(s.cache.type);
    scale_row(act, d, query, s.cache.type == E4M3 ? s.key_factor : 1.0f, bytes);
    for (int64_t k = d; k < query_values(s); k++) store1(act, bytes, k, 0.0f);
}

/* Split `split` of the context as rows `first` to `last` of a piece see it, counted from the piece's first row. */
INLINE split_view view_split(attention_shape s, const token_rows *t, const attention_piece *piece, int64_t kv_head,
                             int64_t split, int64_t first, int64_t last) {
    const int64_t size = split_tokens(s.cache), start = split * size, position = t->positions[piece->first_row];
    const int64_t skip = max_int(0, first_seen(s, position + first) - start) / s.cache.tokens_per_block;
    const int64_t tokens = min_int(size, end_seen(s, t, piece->first_row + last) - start);
    return (split_view){t->block_tables + t->sequence_of_row[piece->first_row] * t->block_table_stride +
                            split * blocks_per_split(s.cache),
                        kv_head, skip, max_int(skip, ceil_div(tokens, s.cache.tokens_per_block)), tokens};
}

/* What query `query` of the piece sees of the split. */
INLINE visible_tokens view_tokens(attention_shape s, const piece_view *view, const split_view *split, int64_t number,
                                  int64_t query) {
    const int64_t start = number * split_tokens(s.cache);
    const int64_t group = heads_per_group(s), row = view->piece->first_row + query / group;
    const int64_t position = view->rows->positions[row], head = view->kv_head * group + query % group;
    const int64_t column = start + (s.bias_origin < 0 ? 0 : s.bias_origin - position);
    return (visible_tokens){split->skip * s.cache.tokens_per_block / LANES, ceil_div(split->tokens, LANES),
                            first_seen(s, position) - start, end_seen(s, view->rows, row) - 1 - start,
                            s.bias_width > 0 ? s.bias + head * s.bias_width + column : NULL};
}

/* Rows of tokens whose numbers for distances are on their way while one is read: no processor foresees the next. */
#define ROWS_AHEAD 8

/* Numbers of one query of a tile that distances add to its scores. */
INLINE int64_t added_values(attention_shape s) { return s.distance_width > 0 ? split_tokens(s.cache) : 0; }

/* What distances add to the scores of queries `first` to `first + count` of the piece, [count][added_values]: the query's
 * number for the distance of each token, and that token's. Both are of this step, which has the whole sequence. Queries
 * go together, since their numbers in a token's row are neighbours, and those rows lie far apart. */
INLINE void add_distances(attention_shape s, const piece_view *view, int64_t number, int64_t first, int64_t count,
                          float *added) {
    if (s.distance_width == 0) return;
    const token_rows *t = view->rows;
    const int64_t begin = view->piece->first_row, group = heads_per_group(s), size = split_tokens(s.cache);
    const int64_t start = number * size, position = t->positions[begin], width = s.distance_width;
    const int64_t from = t->sequence_starts[t->sequence_of_row[begin]], stride = s.distance_row;
    const int64_t tokens = min_int(size, end_seen(s, t, begin) - start), kv_head = view->kv_head * group;
    const int32_t *columns = s.columns + s.bias_origin + start - position;
    const float *queries = s.distances + begin * stride + kv_head * width;
    const float *keys = s.distances + (from + start - t->positions[from]) * stride + (s.num_heads + kv_head) * width;
    const int64_t last_row = (first + count - 1) / group;
    for (int64_t i = 0; i < tokens; i++) {
        const int64_t later = min_int(i + ROWS_AHEAD, tokens - 1);
        __builtin_prefetch(keys + later * stride + columns[later - last_row]);
        UNROLL for (int64_t n = 0; n < count; n++) {
            const int64_t row = (first + n) / group, head = (first + n) % group, column = columns[i - row];
            added[n * size + i] = queries[row * stride + head * width + column] + keys[i * stride + head * width + column];
        }
    }
}

/* The same as view_tokens, with what distances add, if they do. */
INLINE visible_tokens see_tokens(attention_shape s, const piece_view *view, const split_view *split, int64_t number,
                                 int64_t query, const float *added) {
    visible_tokens seen = view_tokens(s, view, split, number, query);
    if (s.distance_width > 0) seen.bias = added;
    return seen;
}

INLINE void attend_floats(attention_shape s, int count, int64_t first, int64_t number, const piece_view *view,
                          const split_view *split, const split_view *next, tile_results results) {
    float scores[QUERY_TILE * split_tokens(s.cache)] __attribute__((aligned(CACHE_LINE)));
    float added[QUERY_TILE * added_values(s) + 1] __attribute__((aligned(CACHE_LINE)));
    visible_tokens seen[QUERY_TILE];
    const void *queries = (const uint8_t *)view->queries + first * query_bytes(s);
    add_distances(s, view, number, first, count, added);
    for (int i = 0; i < count; i++)
        seen[i] = see_tokens(s, view, split, number, first + i, added + i * added_values(s));
    const float_tile tile = {s, count, view->cache, split, next, seen};
    split_scores(&tile, queries, scores, results.maxima);
    split_values(&tile, scores, results.maxima, results.totals, results.out);
}

INLINE void attend_integers(attention_shape s, int count, int64_t first, int64_t number, const piece_view *view,
                            const split_view *split, const split_view *next, tile_results results) {
    const int64_t size = split_tokens(s.cache), tokens = s.cache.tokens_per_block;
    float scores[QUERY_TILE * size], value_scale[size], scales[QUERY_TILE];
    int32_t offsets[QUERY_TILE];
    int8_t digits[QUERY_TILE * 2 * size];
    float added[QUERY_TILE * added_values(s) + 1];
    add_distances(s, view, number, first, count, added);
    const digit_rows queries = {view->queries, query_bytes(s), digit_stride(s.cache.head_size), view->scales,
                                view->offsets};
    level_scores(s.cache, count, rows_from(queries, first), view->cache, split, next != NULL, scores);
    for (int64_t n = split->skip; n < split->end; n++) {
        void *values = split_block(s.cache, view->cache, split, n);
        memcpy(value_scale + n * tokens, value_scales(s.cache, values), tokens * sizeof *value_scale);
    }
    for (int i = 0; i < count; i++)
        scales[i] = digit_weights(s, see_tokens(s, view, split, number, first + i, added + i * added_values(s)),
                                  value_scale, scores + i * size, digits + i * 2 * size, size, offsets + i,
                                  results.maxima + i, results.totals + i);
    const digit_rows weights = {digits, 2 * size, size, scales, offsets};
    weighted_levels(s.cache, count, weights, view->cache, split, next, results.out);
}

#if defined(__AMX_BF16__)
INLINE void attend_in_tiles(attention_shape s, int64_t count, int64_t first, int64_t number, const piece_view *view,
                            const split_view *split, const split_view *next, tile_results results) {
    const int64_t size = split_tokens(s.cache);
    float scores[AMX_HEIGHT * size] __attribute__((aligned(CACHE_LINE)));
    uint16_t weights[AMX_HEIGHT * size] __attribute__((aligned(CACHE_LINE)));
    float added[AMX_HEIGHT * added_values(s) + 1];
    add_distances(s, view, number, first, count, added);
    const amx_queries tile = {s, view->cache, split, next};
    amx_scores(&tile, (const unsigned char *)view->queries + first * query_bytes(s), scores);
    for (int64_t i = 0; i < count; i++)
        results.totals[i] =
            amx_weights(s, see_tokens(s, view, split, number, first + i, added + i * added_values(s)),
                        scores + i * size, weights + i * size, results.maxima + i);
    amx_values(&tile, weights, results.out);
}
#endif

/* Queries `first` to `first + count` of the piece against split `number`. `next`: the split whose keys are needed after
 * this one, or NULL where another tile has prefetched them. */
INLINE void attend_tile(attention_shape s, int count, int64_t first, int64_t number, const piece_view *view,
                        const split_view *next, tile_results results) {
    const int64_t group = heads_per_group(s);
    const split_view split = view_split(s, view->rows, view->piece, view->kv_head, number, first / group,
                                        (first + count - 1) / group);
#if defined(__AMX_BF16__)
    if (in_amx_tiles(s)) {
        attend_in_tiles(s, count, first, number, view, &split, next, results);
        return;
    }
#endif
    if (has_levels(s.cache.type)) attend_integers(s, count, first, number, view, &split, next, results);
    else attend_floats(s, count, first, number, view, &split, next, results);
}

/* The queries of a piece cut into nearly equal tiles: tile `index` starts here. */
INLINE int64_t query_tiles(attention_shape s, int64_t queries) { return ceil_div(queries, query_tile(s)); }
INLINE int64_t query_tile_start(attention_shape s, int64_t queries, int64_t index) {
    return queries * index / query_tiles(s, queries);
}

/* attend_tile for one height. `live` has what is no constant of the tiles: what rows see, and the addresses and factors of
 * a layer. */
typedef void attend_function(const attention_shape *live, int64_t first, int64_t number, const piece_view *view,
                             const split_view *next, tile_results results);

INLINE attention_shape live_shape(attention_shape s, const attention_shape *live) {
    s.window = live->window, s.chunk = live->chunk;
    s.key_factor = live->key_factor, s.value_factor = live->value_factor, s.sinks = live->sinks, s.bias = live->bias;
    s.distances = live->distances, s.columns = live->columns;
    return s;
}

/* Compiles a function for each height of a tile of the shape in the last arguments, and their table `name`. They are
 * functions of their own, shared by layers that see other windows, because a compiler's loop passes take more than
 * linear time: inlined into paged_attention they were three quarters of the time of an engine's compilation. */
#define ATTENTION_TILE(name, n, ...)                                                                                  \
    NOINLINE void name##_##n(const attention_shape *live, int64_t first, int64_t number, const piece_view *view,      \
                             const split_view *next, tile_results results) {                                          \
        const attention_shape s = live_shape(__VA_ARGS__, live);                                                      \
        if (n <= QUERY_TILE && !in_amx_tiles(s)) attend_tile(s, n, first, number, view, next, results);               \
    }
#define ATTENTION_TILES(name, ...)                                                                                    \
    ATTENTION_TILE(name, 1, __VA_ARGS__)                                                                              \
    ATTENTION_TILE(name, 2, __VA_ARGS__)                                                                              \
    ATTENTION_TILE(name, 3, __VA_ARGS__)                                                                              \
    ATTENTION_TILE(name, 4, __VA_ARGS__)                                                                              \
    ATTENTION_TILE(name, 5, __VA_ARGS__)                                                                              \
    ATTENTION_TILE(name, 6, __VA_ARGS__)                                                                              \
    ATTENTION_TILE(name, 7, __VA_ARGS__)                                                                              \
    static attend_function *const name[] = {NULL,     name##_1, name##_2, name##_3,                                   \
                                            name##_4, name##_5, name##_6, name##_7};
_Static_assert(QUERY_TILE <= 7, "a function for every height of a tile");

/* attend_tile for a height known at run time. */
INLINE void attend_queries(attention_shape s, attend_function *const *tiles, int64_t count, int64_t first,
                           int64_t number, const piece_view *view, const split_view *next, tile_results results) {
    if (in_amx_tiles(s)) attend_tile(s, (int)count, first, number, view, next, results);
    else tiles[count](&s, first, number, view, next, results);
}

#endif
