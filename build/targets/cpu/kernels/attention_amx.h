/* Attention over one split of a cache of bfloat16 in tiles of AMX (amx.h): up to AMX_HEIGHT queries.
 *
 * Keys and values lie in pairs (cache.h) as tiles of weights do: a tile has 32 of a head's elements of 16 tokens, or 32
 * tokens of 16 elements. Those are counted from the head's first element and from the split's first token, so a row's
 * bits depend on nothing beside it; they are not those of vectors, and tiles are used for every number of queries. What
 * a tile would read beyond the head or beyond the tokens is zero: memory there may hold NaN. */
#ifndef INFLIGHT_ATTENTION_AMX_H
#define INFLIGHT_ATTENTION_AMX_H

#include "amx_tile.h"
#include "attention_softmax.h"
#include "attention_tile.h"

#define TILES 4 /* of sums: vectors of columns side by side */
#define BLOCK_VECTORS (BLOCK_VALUES / LANES)

typedef unsigned char filled_lines[BLOCK_LINES][TILES * CACHE_LINE];

/* A tile of queries and its split. `next`: the split whose keys are needed after this one, or NULL where another tile
 * has prefetched them and this split's values. */
typedef struct {
    attention_shape shape;
    cache_regions cache;
    const split_view *view, *next;
} amx_queries;

/* Whole blocks of k of a query, so that tiles can be loaded. */
INLINE int64_t amx_query_values(int64_t head_size) { return round_up(head_size, BLOCK_VALUES); }

/* Tiles 0 to `count` - 1 of sums += a block of x times 16 lines, `line` bytes apart, at each of `weights`. */
INLINE void multiply_lines(int64_t count, const void *x, int64_t x_stride, const unsigned char *const *weights,
                           int64_t line) {
    _tile_loadd(4, x, x_stride);
    _tile_loadd(5, weights[0], line);
    _tile_dpbf16ps(0, 4, 5);
    if (count > 1) {
        _tile_loadd(6, weights[1], line);
        _tile_dpbf16ps(1, 4, 6);
    }
    if (count > 2) {
        _tile_loadd(7, weights[2], line);
        _tile_dpbf16ps(2, 4, 7);
    }
    if (count > 3) {
        _tile_loadd(5, weights[3], line);
        _tile_dpbf16ps(3, 4, 5);
    }
}

/* The first `count` tiles of sums, vector by vector, to rows `row` bytes apart. */
INLINE void store_sums_of(int64_t count, float *to, int64_t row) {
    _tile_stored(0, to, row);
    if (count > 1) _tile_stored(1, to + LANES, row);
    if (count > 2) _tile_stored(2, to + 2 * LANES, row);
    if (count > 3) _tile_stored(3, to + 3 * LANES, row);
}

INLINE void prefetch_bytes(const unsigned char *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += CACHE_LINE) __builtin_prefetch(p + i, 0, 2);
}

/* Where vector `v` of the split's tokens begins in its block of keys, and where its values do. */
INLINE const unsigned char *key_vector(const amx_queries *t, int64_t v) {
    const cache_shape s = t->shape.cache;
    const int64_t token = v * LANES, block = token / s.tokens_per_block;
    return at(BF16, key_block(s, t->cache.keys, t->view->blocks[block], t->view->head),
              token % s.tokens_per_block * cache_group(BF16));
}
INLINE const unsigned char *value_vector(const amx_queries *t, int64_t v) {
    const cache_shape s = t->shape.cache;
    const int64_t token = v * LANES, block = token / s.tokens_per_block;
    return at(BF16, split_block(s, t->cache, t->view, block),
              token % s.tokens_per_block / cache_group(BF16) * value_line(s));
}

/* scores[query][token of the split] = q . key, in whole vectors from the first block that is not skipped. Values are
 * prefetched meanwhile. */
INLINE void amx_scores(const amx_queries *t, const unsigned char *q, float *scores) {
    const cache_shape s = t->shape.cache;
    const int64_t size = split_tokens(s), line = s.tokens_per_block * 4, to = ceil_div(t->view->tokens, LANES);
    const int64_t pairs = ceil_div(s.head_size, 2), blocks = ceil_div(pairs, BLOCK_LINES);
    const int64_t ahead = ceil_div(LANES * padded_head(s) * 2, blocks);
    _Alignas(64) filled_lines filled[TILES];
    for (int64_t v = t->view->skip * s.tokens_per_block / LANES; v < to; v += TILES) {
        const int64_t count = min_int(TILES, to - v);
        clear_tiles();
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t lines = min_int(BLOCK_LINES, pairs - b * BLOCK_LINES);
            const unsigned char *keys[TILES];
            for (int64_t i = 0; i < count; i++) {
                keys[i] = key_vector(t, v + i) + b * BLOCK_LINES * line;
                if (t->next) prefetch_bytes(value_vector(t, v + i) + b * ahead, ahead);
                if (lines == BLOCK_LINES) continue;
                memset(filled[i], 0, sizeof filled[i]);
                for (int64_t l = 0; l < lines; l++) memcpy(filled[i][l], keys[i] + l * line, CACHE_LINE);
                keys[i] = filled[i][0];
            }
            multiply_lines(count, q + b * BLOCK_BYTES, amx_query_values(s.head_size) * 2, keys,
                           lines == BLOCK_LINES ? line : (int64_t)sizeof filled[0][0]);
        }
        store_sums_of(count, scores + v * LANES, size * (int64_t)sizeof *scores);
    }
}

/* The scores of one query become weights, in whole blocks; returns their sum. `maximum` becomes the greatest score. */
INLINE float amx_weights(attention_shape s, visible_tokens seen, float *scores, uint16_t *weights, float *maximum) {
    *maximum = greatest_score(s, seen, scores);
    const float offset = exponent_offset(s, *maximum);
    f32x16 sum = splat(0.0f);
    if (seen.from % BLOCK_VECTORS) store16(BF16, weights, (seen.from - 1) * LANES, sum);
    if (seen.to % BLOCK_VECTORS) store16(BF16, weights, seen.to * LANES, sum);
    for (int64_t v = seen.from; v < seen.to; v++) {
        const f32x16 weight = weights_at(s, BF16, scores, v * LANES, offset);
        store16(BF16, weights, v * LANES, weight);
        sum += weight;
    }
    return sum16(sum);
}

/* The `width` bytes from `column` on of the lines of values of block `b` of the split's tokens, with zeros for tokens
 * that it does not have. */
INLINE void fill_values(const amx_queries *t, int64_t b, int64_t column, int64_t width, filled_lines filled) {
    const cache_shape s = t->shape.cache;
    for (int64_t l = 0; l < BLOCK_LINES; l++) {
        const int64_t token = b * BLOCK_VALUES + 2 * l;
        memset(filled[l], 0, sizeof filled[l]);
        if (token < t->view->skip * s.tokens_per_block || token >= t->view->tokens) continue;
        memcpy(filled[l], value_vector(t, token / LANES) + token % LANES / 2 * value_line(s) * 2 + column, (size_t)width);
        if (token + 1 < t->view->tokens) continue;
        for (int64_t i = 0; i < width; i += CACHE_LINE) store_words(filled[l] + i, load_words(filled[l] + i) & 0xffffu);
    }
}

/* The next split's keys, while block `b` of this one's tokens is weighted. */
INLINE void prefetch_keys_beside(const amx_queries *t, int64_t b) {
    const cache_shape s = t->shape.cache;
    const int64_t bytes = LANES * 2 * s.head_size;
    for (int64_t v = b * BLOCK_VECTORS; v < (b + 1) * BLOCK_VECTORS; v++) {
        const int64_t block = v * LANES / s.tokens_per_block - t->view->skip + t->next->skip;
        if (block < t->next->skip || block >= t->next->end) continue;
        const unsigned char *keys = key_block(s, t->cache.keys, t->next->blocks[block], t->next->head);
        prefetch_bytes(keys + v * LANES % s.tokens_per_block / LANES * bytes, bytes);
    }
}

/* out[query][padded head] = the values weighted. */
INLINE void amx_values(const amx_queries *t, const uint16_t *weights, float *out) {
    const cache_shape s = t->shape.cache;
    const int64_t width = padded_head(s), line = value_line(s) * 2, size = split_tokens(s);
    const int64_t from = t->view->skip * s.tokens_per_block / BLOCK_VALUES, to = ceil_div(t->view->tokens, BLOCK_VALUES);
    const int whole_blocks = s.tokens_per_block % BLOCK_VALUES == 0;
    _Alignas(64) filled_lines filled;
    for (int64_t column = 0; column < width; column += TILES * LANES) {
        const int64_t count = min_int(TILES, (width - column) / LANES);
        clear_tiles();
        for (int64_t b = from; b < to; b++) {
            const int whole = whole_blocks && (b + 1) * BLOCK_VALUES <= t->view->tokens;
            const unsigned char *first = filled[0], *values[TILES];
            if (whole) first = value_vector(t, b * BLOCK_VECTORS) + column * 4;
            else fill_values(t, b, column * 4, count * CACHE_LINE, filled);
            if (t->next && column == 0) prefetch_keys_beside(t, b);
            for (int64_t i = 0; i < count; i++) values[i] = first + i * CACHE_LINE;
            multiply_lines(count, weights + b * BLOCK_VALUES, size * (int64_t)sizeof *weights, values,
                           whole ? line : (int64_t)sizeof filled[0]);
        }
        store_sums_of(count, out + column, width * (int64_t)sizeof *out);
    }
}

#endif
