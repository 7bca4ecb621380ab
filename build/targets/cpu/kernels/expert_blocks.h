/* Experts that many rows met. A thread takes a block of an expert's rows: it gathers them in its cache and multiplies
 * them by all panels of the first product. Then it takes a panel's columns of a block of rows of the step, multiplies
 * them for one expert after the other, and adds up their results in its cache (row_sums.h): what an expert makes of a
 * row is never written to memory. */
#ifndef INFLIGHT_EXPERT_BLOCKS_H
#define INFLIGHT_EXPERT_BLOCKS_H

#include "expert_groups.h"
#include "row_sums.h"

/* A block of an expert's rows: those of a group from `first` on. */
typedef struct {
    expert_group group;
    int64_t first, count;
    const void *following; /* what this thread will probably read behind it; NULL: nothing new */
} expert_block;

/* The next block of rows for the first product; 0 when there is none left. Threads take them in order, so that those of
 * one expert meet its panels at the same time. */
INLINE int take_block(pool *p, const expert_panels *m, expert_groups g, expert_block *block) {
    const int64_t number = pool_take(p);
    if (number >= m->pieces[*g.active]) return 0;
    const int64_t i = group_of_piece(m, *g.active, number), first = m->pieces[i];
    const panel_piece rows = block_of_rows(0, number - first, m->pieces[i + 1] - first, g.groups[i].count);
    *block = (expert_block){g.groups[i], rows.first, rows.count, NULL};
    const int64_t later = number + p->threads; /* others take those between */
    if (later < m->pieces[*g.active]) {
        const int64_t next = group_of_piece(m, *g.active, later);
        if (next != i) block->following = panel_at(m, g.groups[next], 0);
    }
    return 1;
}

/* The rows of a block side by side at `sorted`, and which they are: in the memory of `places`, which nothing else reads
 * then. */
INLINE void gather_block(router_shape s, expert_rows rows, const expert_block *block, experts_scratch e, void *sorted,
                         float *scales) {
    const int64_t start = block->group.start + block->first;
    gather_met_rows(s, rows, start, start + block->count, e, sorted, scales);
    for (int64_t i = start; i < start + block->count; i++) e.places[i] = e.order[i] / (int32_t)s.top_k;
}

/* A block's pieces in the first product: its rows meet a panel BLOCK_ROWS at a time. */
INLINE int64_t pieces_of_block(const expert_panels *m, const expert_block *block) {
    return m->panels * ceil_div(block->count, BLOCK_ROWS);
}
INLINE panel_piece piece_of_block(const expert_panels *m, const expert_block *block, int64_t number) {
    const int64_t blocks = ceil_div(block->count, BLOCK_ROWS), panel = number / blocks;
    panel_piece piece = block_of_rows(panel, number % blocks, blocks, block->count);
    const unsigned char *columns = panel_at(m, block->group, panel);
    piece.columns = columns;
    piece.following = panel + 1 < m->panels ? columns + m->panel_bytes : block->following;
    piece.block = number % blocks, piece.blocks = blocks;
    return piece;
}

/* Rows `first` to `end` of the step, and the panel of every expert that has their columns. */
typedef struct {
    int64_t panel, first, end;
    const void *following; /* what this thread will probably read behind it */
} sum_piece;

/* Blocks of the step's rows: their sums fit a cache, and every thread is busy to the end. */
INLINE int64_t sum_blocks(const pool *p, expert_groups g, int64_t rows, int64_t pairs, int64_t panels) {
    const int64_t wanted = ceil_div(4 * p->threads, panels), most = pairs / (*g.active * LEAST_BLOCK);
    return max_int(ceil_div(rows, SUM_ROWS), min_int(wanted, most));
}

/* The next piece, whose sums are cleared; 0 when there is none left. */
INLINE int take_sums(pool *p, int thread, const expert_panels *m, expert_groups g, int64_t rows, int64_t pairs,
                     float (*sums)[PANEL], sum_piece *piece) {
    const int64_t blocks = sum_blocks(p, g, rows, pairs, m->panels);
    const shared_piece taken = pool_take_near(p, thread, m->panels * blocks, 1);
    if (taken.number < 0) return 0;
    const int64_t block = taken.number % blocks, next = (taken.number + 1) / blocks;
    *piece = (sum_piece){taken.number / blocks, rows * block / blocks, rows * (block + 1) / blocks,
                         p->shares[thread].expected};
    if (taken.number + 1 < taken.end) piece->following = panel_at(m, g.groups[0], next);
    memset(sums, 0, (size_t)(piece->end - piece->first) * sizeof *sums);
    return 1;
}

/* The place of the first pair of a group that is `pair` or a later one. */
INLINE int64_t place_of_pair(const int32_t *order, expert_group group, int64_t pair) {
    int64_t low = group.start, high = group.start + group.count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (order[middle] < pair) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The part of group `index` that is of the piece's rows: what the first product left of them lies side by side. */
INLINE expert_group part_of_piece(expert_groups g, int64_t index, const int32_t *order, int64_t top_k,
                                  const sum_piece *piece) {
    const expert_group group = g.groups[index];
    const int64_t start = place_of_pair(order, group, piece->first * top_k);
    const int64_t end = place_of_pair(order, group, piece->end * top_k);
    return (expert_group){group.expert, (int32_t)start, (int32_t)(end - start)};
}

/* Where a thread is in the second product: which piece, which expert's part of it, and which block of the part's
 * rows. */
typedef struct {
    float (*sums)[PANEL];
    const float *residual;
    float *y;
    int64_t width, rows;
    sum_piece piece;
    expert_group part;
    int64_t index, block, blocks;
    int open; /* whether there is a piece */
} sum_walk;

INLINE sum_walk begin_sums(float (*sums)[PANEL], int64_t rows, int64_t width, const float *residual, float *y) {
    sum_walk w = {sums, residual, y, width, rows, {0, 0, 0, NULL}, {0, 0, 0}, 0, 0, 0, 0};
    return w;
}

/* The next block of rows that meets a panel of one expert; 0 when there is none left. Sums are stored when all experts
 * are added up: y = residual + sums. */
INLINE int next_of_sums(pool *p, int thread, const expert_panels *m, router_shape s, experts_scratch e, sum_walk *w,
                        panel_piece *piece) {
    const expert_groups g = e.groups;
    while (w->block == w->blocks) {
        if (w->open && ++w->index < *g.active) {
            w->part = part_of_piece(g, w->index, e.order, s.top_k, &w->piece);
            w->block = 0, w->blocks = ceil_div(w->part.count, BLOCK_ROWS);
            continue;
        }
        if (w->open)
            store_row_sums((const float(*)[PANEL])w->sums, w->piece.panel, w->piece.first,
                           w->piece.end - w->piece.first, w->width, w->residual, w->y);
        w->open = take_sums(p, thread, m, g, w->rows, w->rows * s.top_k, w->sums, &w->piece);
        if (!w->open) return 0;
        w->index = -1;
    }
    *piece = block_of_rows(w->piece.panel, w->block, w->blocks, w->part.count);
    piece->columns = panel_at(m, w->part, w->piece.panel);
    piece->following =
        w->index + 1 < *g.active ? panel_at(m, g.groups[w->index + 1], w->piece.panel) : w->piece.following;
    piece->block = w->block++, piece->blocks = w->blocks;
    return 1;
}

/* What a product of a part's rows is added to; weights are 1 where rows had theirs before. */
INLINE row_sums sums_of_part(const sum_walk *w, router_shape s, experts_scratch e) {
    return (row_sums){w->sums, w->piece.first, e.places + w->part.start, e.order + w->part.start,
                      weighs_inputs(s) ? NULL : e.weights};
}

#endif
