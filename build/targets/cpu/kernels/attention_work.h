/* How one step of attention is cut into pieces of work.
 *
 * A piece is one KV head and some neighbouring rows of one sequence. Where pieces are too few or too unequal to keep
 * every thread busy, a piece is cut at its splits; the partial results wait in memory that was planned when the engine
 * was built, and are merged, left to right, after a barrier. Every thread plans the same list from the same rows; what
 * is cut changes which thread computes a partial result and never its bits. */
#ifndef INFLIGHT_ATTENTION_WORK_H
#define INFLIGHT_ATTENTION_WORK_H

#include "rope.h"

#define PIECE_QUERIES 48
/* The tokens of one step of the online softmax, rounded up to whole blocks: part of the definition of the results. */
#define SPLIT_TOKENS 256
/* An item of work is at most this part of one thread's share, where cutting helps. */
#define ITEMS_PER_THREAD 4

typedef struct {
    cache_shape cache;
    int64_t num_heads;
    int64_t window, chunk, causal; /* 0: none; causal 0: a row sees both sides of its sequence, which is one step's */
    float scale, softcap; /* scores become softcap tanh(score / softcap); 0: they stay as they are */
    int64_t partial_rows; /* (row, split) pairs that the memory for partial results holds */
    int64_t bias_width, bias_origin; /* of a row of `bias`; 0: there is none */
    int64_t distance_width, distance_row; /* numbers of a head for distances, and of a row; 0: there are none */
    float key_factor, value_factor; /* what the numbers of a cache of E4M3 are multiplied by */
    const float *sinks; /* [num_heads], of each head one score more, of no value; NULL: none */
    const float *bias; /* [num_heads][bias_width]: a key's is at its position, less the query's if origin >= 0, plus that */
    const float *distances; /* [rows][distance_row]: [2][num_heads][distance_width], what a query, and a key, makes of them */
    const int32_t *columns; /* that of a key is at its position, less the query's, plus bias_origin */
} attention_shape;

INLINE int64_t heads_per_group(attention_shape s) { return s.num_heads / s.cache.num_kv_heads; }
INLINE int64_t rows_per_piece(attention_shape s) { return max_int(1, PIECE_QUERIES / heads_per_group(s)); }
INLINE int64_t blocks_per_split(cache_shape s) { return ceil_div(SPLIT_TOKENS, s.tokens_per_block); }
INLINE int64_t split_tokens(cache_shape s) { return blocks_per_split(s) * s.tokens_per_block; }

/* The first position that a row at `position` sees. */
INLINE int64_t first_seen(attention_shape s, int64_t position) {
    if (s.chunk > 0) return position / s.chunk * s.chunk;
    return s.window > 0 ? max_int(0, position - s.window + 1) : 0;
}

/* Behind the last position that row `row` sees. */
INLINE int64_t end_seen(attention_shape s, const token_rows *t, int64_t row) {
    if (s.causal) return 1 + t->positions[row];
    const int64_t end = 1 + t->positions[t->sequence_starts[t->sequence_of_row[row] + 1] - 1];
    return s.window > 0 ? min_int(end, t->positions[row] + s.window) : end;
}

typedef struct {
    int64_t first_row, rows;
    int64_t first_split, splits;
    int64_t partial; /* where its partial results begin, in (row, split) pairs; -1: it is not cut */
} attention_piece;

typedef struct {
    int64_t longest; /* a piece that sees more tokens than this, times its rows, is cut */
    int64_t items, cut_items;
} attention_plan;

/* Walks the pieces from the last row of the last sequence to the first: the last rows of a prompt see most. */
typedef struct {
    int64_t sequence, next_piece; /* the piece before which the walk stands, counted from the sequence's first */
    int64_t partials;             /* pairs given away so far */
    int64_t first_item, items;    /* of the piece in hand */
    attention_piece piece;
} attention_walk;

INLINE int64_t pieces_of(attention_shape s, const token_rows *t, int64_t sequence) {
    return ceil_div(t->sequence_starts[sequence + 1] - t->sequence_starts[sequence], rows_per_piece(s));
}

INLINE attention_walk walk_start(attention_shape s, const token_rows *t) {
    const int64_t last = t->num_sequences - 1;
    return (attention_walk){.sequence = last, .next_piece = last < 0 ? 0 : pieces_of(s, t, last)};
}

/* The next piece, whole; 0 when there is none. */
INLINE int walk_rows(attention_shape s, const token_rows *t, attention_walk *w) {
    while (w->next_piece == 0) {
        if (--w->sequence < 0) return 0;
        w->next_piece = pieces_of(s, t, w->sequence);
    }
    const int64_t first = t->sequence_starts[w->sequence] + --w->next_piece * rows_per_piece(s);
    const int64_t rows = min_int(rows_per_piece(s), t->sequence_starts[w->sequence + 1] - first);
    const int64_t split = first_seen(s, t->positions[first]) / split_tokens(s.cache);
    const int64_t end = end_seen(s, t, first + rows - 1);
    w->piece = (attention_piece){first, rows, split, ceil_div(end, split_tokens(s.cache)) - split, -1};
    return 1;
}

INLINE int64_t piece_cost(attention_shape s, const token_rows *t, const attention_piece *piece) {
    const int64_t end = end_seen(s, t, piece->first_row + piece->rows - 1);
    return piece->rows * (end - first_seen(s, t->positions[piece->first_row]));
}

/* The next piece, cut if the plan says so and there is memory for its partial results. */
INLINE int walk_on(attention_shape s, const token_rows *t, int64_t longest, attention_walk *w) {
    w->first_item += w->items;
    if (!walk_rows(s, t, w)) return 0;
    const int64_t pairs = w->piece.rows * w->piece.splits;
    w->items = s.cache.num_kv_heads;
    if (w->piece.splits > 1 && w->partials + pairs <= s.partial_rows && piece_cost(s, t, &w->piece) > longest) {
        w->piece.partial = w->partials;
        w->partials += pairs;
        w->items *= w->piece.splits;
    }
    return 1;
}

INLINE attention_plan plan_attention(const pool *p, attention_shape s, const token_rows *t) {
    attention_plan plan = {INT64_MAX, 0, 0};
    int64_t cost = 0;
    if (p->threads > 1) {
        for (attention_walk w = walk_start(s, t); walk_rows(s, t, &w);) cost += piece_cost(s, t, &w.piece);
        plan.longest = cost * s.cache.num_kv_heads / (ITEMS_PER_THREAD * p->threads);
    }
    for (attention_walk w = walk_start(s, t); walk_on(s, t, plan.longest, &w);) {
        plan.items += w.items;
        if (w.piece.partial >= 0) plan.cut_items += s.cache.num_kv_heads;
    }
    return plan;
}

#endif
