/* Attention over the paged cache.
 *
 * The context is cut at fixed multiples of tokens (attention_work.h); every split is one step of the online softmax,
 * merged in order of position (attention_softmax.h). All query heads of a KV head go together, so that keys and values
 * are read once for all. A row's bits depend neither on the rows of its tile or piece, nor on chunking, nor on
 * threads. */
#ifndef INFLIGHT_ATTENTION_H
#define INFLIGHT_ATTENTION_H

#include "attention_queries.h"

/* Where the partial results of a split of one row lie, from head `head` on: weighted values of all heads, then maxima,
 * then totals. Maxima cannot be read beyond the last head's. */
INLINE tile_results partial_results(attention_shape s, float *partials, int64_t pair, int64_t head) {
    const int64_t width = padded_head(s.cache);
    float *out = partials + pair * s.num_heads * (width + 2), *maxima = out + s.num_heads * width;
    return (tile_results){maxima + head, maxima + s.num_heads + head, out + head * width};
}

INLINE tile_results results_from(attention_shape s, tile_results results, int64_t first) {
    return (tile_results){results.maxima + first, results.totals + first, results.out + first * padded_head(s.cache)};
}

INLINE void store_result(attention_shape s, tile_results results, int64_t query, element y_type, void *y, int64_t row,
                         int64_t head) {
    const int64_t d = value_size(s.cache);
    float *out = results.out + query * padded_head(s.cache);
    if (s.cache.type == I4) spread_head(d, out, out);
    const float factor = s.cache.type == E4M3 ? s.value_factor : 1.0f;
    const float share = share_of_values(s, factor, results.maxima[query], results.totals[query], head);
    scale_row(y_type, d, out, share, at(y_type, y, (row * s.num_heads + head) * d));
}

/* Of a cut piece: the results of a tile and a split go to memory. */
INLINE void keep_partial(attention_shape s, const piece_view *view, int64_t split, int64_t first, int64_t count,
                         tile_results part, float *partials) {
    const int64_t group = heads_per_group(s), width = padded_head(s.cache);
    const int64_t pairs = view->piece->partial + split - view->piece->first_split;
    for (int64_t n = 0; n < count; n++) {
        const int64_t row = (first + n) / group, head = view->kv_head * group + (first + n) % group;
        tile_results kept = partial_results(s, partials, pairs + row * view->piece->splits, head);
        *kept.maxima = part.maxima[n];
        *kept.totals = part.totals[n];
        memcpy(kept.out, part.out + n * width, width * sizeof *part.out);
    }
}

/* A piece against the splits from `from` to `to`. A whole piece takes in every split as soon as it is known, and those
 * are all; a cut one keeps them apart. */
INLINE void attend_splits(attention_shape s, attend_function *const *tiles, const piece_view *view, int64_t from,
                          int64_t to, const split_view *next, float *partials, element y_type, void *y) {
    const attention_piece piece = *view->piece;
    const int64_t group = heads_per_group(s), queries = piece.rows * group, width = padded_head(s.cache);
    const int64_t most = rows_per_piece(s) * group;
    float maxima[most + LANES], totals[most], out[most * width] __attribute__((aligned(CACHE_LINE)));
    const tile_results whole = {maxima, totals, out};
    unsigned char values[latent_bytes(s.cache)] __attribute__((aligned(CACHE_LINE)));
    piece_view own_values = *view;
    if (s.cache.latent) own_values.cache.values = values, view = &own_values;
    const int cut = piece.partial >= 0;
    if (!cut) clear_results(s, queries, whole);
    for (int64_t split = from; split < to; split++) {
        const split_view own = view_split(s, view->rows, &piece, view->kv_head, split + 1, 0, piece.rows - 1);
        if (s.cache.latent) {
            const split_view now = view_split(s, view->rows, &piece, view->kv_head, split, 0, piece.rows - 1);
            split_latents(s.cache, view->cache.keys, &now, values);
        }
        for (int64_t i = 0; i < query_tiles(s, queries); i++) {
            const int64_t first = query_tile_start(s, queries, i), count = query_tile_start(s, queries, i + 1) - first;
            float maxima[LANES], totals[LANES], out[query_tile(s) * width] __attribute__((aligned(CACHE_LINE)));
            const tile_results part = {maxima, totals, out};
            attend_queries(s, tiles, count, first, split, view, i ? NULL : split + 1 == to ? next : &own, part);
            if (cut) keep_partial(s, view, split, first, count, part, partials);
            else merge_split(s, count, part, results_from(s, whole, first));
        }
    }
    if (cut) return;
    for (int64_t i = 0; i < queries; i++)
        store_result(s, whole, i, y_type, y, piece.first_row + i / group, view->kv_head * group + i % group);
}

/* The results of a cut piece, from the partial results of its splits. */
INLINE void merge_piece(attention_shape s, const attention_piece *piece, int64_t kv_head, float *partials,
                        element y_type, void *y) {
    const int64_t group = heads_per_group(s), width = padded_head(s.cache), tiles = query_tiles(s, group);
    for (int64_t i = 0; i < piece->rows * tiles; i++) {
        const int64_t row = i / tiles, head = query_tile_start(s, group, i % tiles);
        const int64_t first = kv_head * group + head, count = query_tile_start(s, group, i % tiles + 1) - head;
        float maxima[LANES], totals[LANES], out[query_tile(s) * width] __attribute__((aligned(CACHE_LINE)));
        const tile_results whole = {maxima, totals, out};
        clear_results(s, count, whole);
        for (int64_t split = 0; split < piece->splits; split++) {
            tile_results part = partial_results(s, partials, piece->partial + row * piece->splits + split, first);
            float part_maxima[LANES];
            for (int64_t n = 0; n < count; n++) part_maxima[n] = part.maxima[n];
            merge_split(s, count, (tile_results){part_maxima, part.totals, part.out}, whole);
        }
        for (int64_t n = 0; n < count; n++) store_result(s, whole, n, y_type, y, piece->first_row + row, first + n);
    }
}

/* An item of work: a piece and KV head, or one split of it. */
typedef struct {
    attention_piece piece;
    int64_t kv_head, split; /* split: of a cut piece, counted from its first */
    split_view keys;        /* what it reads first */
} attention_item;

INLINE attention_item find_item(attention_shape s, const token_rows *t, const attention_plan *plan, int64_t number,
                                attention_walk *w) {
    attention_item item = {0};
    if (number >= plan->items) return item;
    while (number >= w->first_item + w->items) walk_on(s, t, plan->longest, w);
    const int64_t place = number - w->first_item, heads = s.cache.num_kv_heads;
    item = (attention_item){.piece = w->piece, .kv_head = place % heads, .split = place / heads};
    item.keys = view_split(s, t, &w->piece, item.kv_head, w->piece.first_split + item.split, 0, w->piece.rows - 1);
    return item;
}

INLINE void attend_item(attention_shape s, attend_function *const *tiles, const token_rows *t,
                        const attention_item *item, const split_view *next, const float *q, cache_regions cache,
                        float *partials, element y_type, void *y) {
    const int64_t group = heads_per_group(s), most = rows_per_piece(s) * group;
    /* A tile of AMX reads as many queries as it can hold. */
    unsigned char queries[(most + query_tile(s)) * query_bytes(s)] __attribute__((aligned(CACHE_LINE)));
    float scales[most];
    int32_t offsets[most];
    for (int64_t i = 0; i < item->piece.rows * group; i++) {
        const int64_t row = item->piece.first_row + i / group, head = item->kv_head * group + i % group;
        load_query(s, q + (row * s.num_heads + head) * s.cache.head_size, queries + i * query_bytes(s), scales + i,
                   offsets + i);
    }
    const piece_view view = {t, &item->piece, item->kv_head, cache, queries, scales, offsets};
    const int64_t from = item->piece.first_split + item->split;
    const int64_t to = item->piece.partial < 0 ? from + item->piece.splits : from + 1;
    attend_splits(s, tiles, &view, from, to, next, partials, y_type, y);
}

/* q [rows][num_heads D] float32 -> y [rows][num_heads D] of y_type. A thread takes its next item before it works on the
 * one in hand, so that the keys are under way. `tiles`: of ATTENTION_TILES. Factors: of a cache of E4M3. */
INLINE void paged_attention(pool *p, int thread, attend_function *const *tiles, attention_shape s, element y_type,
                            const token_rows *t, const float *q, void *keys, void *values, float *partials, void *y,
                            const float *sinks, const float *bias, const float *distances, const int32_t *columns,
                            float key_factor, float value_factor) {
    (void)thread;
    s.key_factor = key_factor, s.value_factor = value_factor, s.sinks = sinks, s.bias = bias;
    s.distances = distances, s.columns = columns;
    const attention_plan plan = plan_attention(p, s, t);
    const cache_regions cache = {keys, values};
    attention_walk w = walk_start(s, t);
    int64_t number = pool_take(p);
    attention_item item = find_item(s, t, &plan, number, &w);
    for (int64_t n = item.keys.skip; n < item.keys.end; n++) prefetch_keys(s.cache, keys, &item.keys, n);
#if defined(__AMX_BF16__)
    int64_t configured = 0;
    if (in_amx_tiles(s) && number < plan.items) configure_tiles(AMX_HEIGHT, BLOCK_BYTES, &configured);
#endif
    while (number < plan.items) {
        number = pool_take(p);
        const attention_item next = find_item(s, t, &plan, number, &w);
        attend_item(s, tiles, t, &item, &next.keys, q, cache, partials, y_type, y);
        item = next;
    }
#if defined(__AMX_BF16__)
    release_tiles(configured);
#endif
    if (plan.cut_items == 0) return;
    pool_barrier(p);
    w = walk_start(s, t);
    int64_t cut = -1;
    while ((number = pool_take(p)) < plan.cut_items) {
        while (cut < number / s.cache.num_kv_heads) {
            walk_on(s, t, plan.longest, &w);
            cut += w.piece.partial >= 0;
        }
        merge_piece(s, &w.piece, number % s.cache.num_kv_heads, partials, y_type, y);
    }
}

#endif
