/* The rows of a step side by side by the experts that they met, and the pieces of the experts' products: one list of
 * (expert, panel, block of rows) that threads share. Panels of an expert that no row chose are not read. */
#ifndef INFLIGHT_EXPERT_GROUPS_H
#define INFLIGHT_EXPERT_GROUPS_H

#include "panels.h"
#include "router.h"

#define FEW_LOGITS 4096 /* one thread routes so many sooner than all of them meet */

/* The scratch memory of a step; `pairs` are rows times choices. expert_scratch.py of the builder has the same sizes. */
typedef struct {
    int32_t *chosen, *order, *places, *cursor;
    float *weights, *results;      /* [pairs], [pairs][hidden] */
    unsigned char *sorted, *inner; /* rows of both products, [pairs] */
    float *products;               /* [pairs][size], where rows of the second product are rounded ones; or NULL */
    float *sorted_scale, *inner_scale;
    expert_groups groups;
} experts_scratch;

INLINE int weighs_inputs(router_shape s) { return s.kind == ROUTE_SIGMOID_INPUTS; }

INLINE void *take_bytes(unsigned char **memory, int64_t bytes) {
    unsigned char *start = *memory;
    *memory += round_up(bytes, CACHE_LINE);
    return start;
}

/* `outer` and `inner` are bytes of a row of both products; rows have scales if they are `rounded`. */
INLINE experts_scratch lay_out_experts(int64_t experts, int64_t hidden, int64_t size, int64_t outer, int64_t inner,
                                       int rounded, int64_t pairs, void *scratch) {
    unsigned char *memory = scratch;
    experts_scratch e;
    e.chosen = take_bytes(&memory, 4 * pairs);
    e.order = take_bytes(&memory, 4 * pairs);
    e.places = take_bytes(&memory, 4 * pairs);
    e.weights = take_bytes(&memory, 4 * pairs);
    e.sorted = take_bytes(&memory, outer * pairs);
    e.inner = take_bytes(&memory, inner * pairs);
    e.results = take_bytes(&memory, 4 * pairs * hidden);
    e.products = rounded ? take_bytes(&memory, 4 * pairs * size) : NULL;
    e.sorted_scale = rounded ? take_bytes(&memory, 4 * pairs) : NULL;
    e.inner_scale = rounded ? take_bytes(&memory, 4 * pairs) : NULL;
    e.cursor = take_bytes(&memory, 4 * experts);
    e.groups.groups = take_bytes(&memory, 12 * experts);
    e.groups.gated = take_bytes(&memory, 8 * (experts + 1));
    e.groups.projected = take_bytes(&memory, 8 * (experts + 1));
    e.groups.active = take_bytes(&memory, 4);
    return e;
}

/* The panels of all experts in one of their two products. `pieces` are those of expert_groups. */
typedef struct {
    const void *weight;
    int64_t panel_bytes, panels;
    const int64_t *pieces;
} expert_panels;

/* Numbers the pieces of a product: as many blocks of rows for each expert as a product of all panels together has. */
INLINE void number_pieces(const pool *p, expert_groups g, int64_t panels, int64_t *pieces) {
    pieces[0] = 0;
    for (int64_t i = 0; i < *g.active; i++)
        pieces[i + 1] = pieces[i] + panels * row_blocks(p, g.groups[i].count, panels * *g.active);
}

/* Where experts have many rows, a thread takes a block of an expert's rows through the whole first product, and a
 * panel's columns of the step's rows through the second (expert_blocks.h). With fewer, panels would be read in vain.
 *
 * The rows of a block, whole tiles: at least, at most, and at most of the last experts. Every block reads all
 * panels of its expert, and tiles of AMX multiply fewer rows sooner than a panel comes from memory. */
#if defined(__AMX_INT8__)
#define LEAST_BLOCK (5 * TILE_ROWS)
#define MOST_BLOCK (42 * TILE_ROWS)
#define LAST_BLOCK (11 * TILE_ROWS)
#else
#define LEAST_BLOCK (2 * TILE_ROWS)
#define MOST_BLOCK BLOCK_ROWS
#define LAST_BLOCK BLOCK_ROWS
#endif

INLINE int many_for_experts(const pool *p, expert_groups g, int64_t pairs) {
    return pairs >= LEAST_BLOCK * max_int(*g.active, p->threads);
}

/* Rows of a block, at most: whole tiles, and enough blocks to keep every thread busy to the end. */
INLINE int64_t block_rows(const pool *p, int64_t pairs) {
    return max_int(LEAST_BLOCK, min_int(MOST_BLOCK, pairs / (4 * p->threads) / TILE_ROWS * TILE_ROWS));
}

/* Numbers the blocks of every group's rows: small ones in the end, so that threads end together. */
INLINE void number_blocks(const pool *p, expert_groups g, int64_t pairs, int64_t *blocks) {
    blocks[0] = 0;
    const int64_t most = block_rows(p, pairs), last = min_int(most, LAST_BLOCK);
    for (int64_t i = 0; i < *g.active; i++)
        blocks[i + 1] = blocks[i] + ceil_div(g.groups[i].count, i + p->threads < *g.active ? most : last);
}

/* The group that has a piece. */
INLINE int64_t group_of_piece(const expert_panels *m, int64_t active, int64_t piece) {
    int64_t low = 0, high = active - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (m->pieces[middle] <= piece) low = middle;
        else high = middle - 1;
    }
    return low;
}

INLINE const unsigned char *panel_at(const expert_panels *m, expert_group group, int64_t panel) {
    return (const unsigned char *)m->weight + (group.expert * m->panels + panel) * m->panel_bytes;
}

/* Where the panel of a piece lies; NULL when there is none of that number. */
INLINE const unsigned char *panel_of_piece(const expert_panels *m, expert_groups g, int64_t piece) {
    if (piece >= m->pieces[*g.active]) return NULL;
    const int64_t i = group_of_piece(m, *g.active, piece);
    const int64_t blocks = (m->pieces[i + 1] - m->pieces[i]) / m->panels;
    return panel_at(m, g.groups[i], (piece - m->pieces[i]) / blocks);
}

/* The next piece, and the group whose it is; 0 when there is none left. `later` is what this thread probably reads
 * behind its share. */
INLINE int take_group_piece(pool *p, int thread, const expert_panels *m, expert_groups g, const void *later,
                            expert_group *group, panel_piece *piece) {
    const shared_piece taken = pool_take_near(p, thread, m->pieces[*g.active], 1);
    if (taken.number < 0) return 0;
    const int64_t i = group_of_piece(m, *g.active, taken.number);
    const int64_t blocks = (m->pieces[i + 1] - m->pieces[i]) / m->panels, inside = taken.number - m->pieces[i];
    *group = g.groups[i];
    *piece = block_of_rows(inside / blocks, inside % blocks, blocks, group->count);
    piece->columns = panel_at(m, *group, piece->panel);
    piece->block = inside % blocks, piece->blocks = blocks;
    const int64_t behind = taken.number + blocks - piece->block; /* the first piece of the next panel */
    piece->following = behind >= taken.end ? later : panel_of_piece(m, g, behind);
    return 1;
}

INLINE const float *bias_of(const float *biases, const expert_panels *m, expert_group group) {
    return biases ? biases + group.expert * m->panels * PANEL : NULL;
}

INLINE void route_rows(router_shape s, int64_t first, int64_t end, const float *logits, const float *bias,
                       experts_scratch e) {
    for (int64_t row = first; row < end; row++) {
        int32_t *chosen = e.chosen + row * s.top_k;
        float *weights = e.weights + row * s.top_k;
        route_row(s, logits + row * s.count, bias, chosen, weights);
        order_choices(s.top_k, chosen, weights);
    }
}

/* Who meets whom, and the pieces of both products. Ends with all threads having met. */
INLINE void group_rows(pool *p, int thread, router_shape s, int64_t rows, const float *logits, const float *bias,
                       experts_scratch e, int64_t gated_panels, int64_t projected_panels) {
    const int few = rows * s.count <= FEW_LOGITS;
    if (!few) {
        route_rows(s, share_start(p, thread, rows), share_start(p, thread + 1, rows), logits, bias, e);
        pool_barrier(p);
    }
    if (thread == 0) {
        if (few) route_rows(s, 0, rows, logits, bias, e);
        group_by_expert(s, rows * s.top_k, e.chosen, e.cursor, e.order, e.places, e.groups);
        if (many_for_experts(p, e.groups, rows * s.top_k)) {
            number_blocks(p, e.groups, rows * s.top_k, e.groups.gated);
        } else {
            number_pieces(p, e.groups, gated_panels, e.groups.gated);
            number_pieces(p, e.groups, projected_panels, e.groups.projected);
        }
    }
    pool_barrier(p);
}

/* The rows that experts meet, and their scales where they have some; `type` and `width` of their elements where they
 * have none. */
typedef struct {
    const void *x;
    const float *x_scale;
    int64_t row_bytes;
    element type;
    int64_t width;
} expert_rows;

/* The rows at places `first` to `end` side by side. Where weights multiply what experts meet, they do it here: scales,
 * or the elements of a row. */
INLINE void gather_met_rows(router_shape s, expert_rows rows, int64_t first, int64_t end, experts_scratch e,
                            void *sorted, float *scales) {
    for (int64_t i = first; i < end; i++) {
        const int64_t row = e.order[i] / (int32_t)s.top_k;
        const void *from = (const unsigned char *)rows.x + row * rows.row_bytes;
        void *to = (unsigned char *)sorted + (i - first) * rows.row_bytes;
        const float weight = weighs_inputs(s) ? e.weights[e.order[i]] : 1.0f;
        if (rows.x_scale) scales[i - first] = rows.x_scale[row] * weight;
        if (rows.x_scale || !weighs_inputs(s)) {
            memcpy(to, from, (size_t)rows.row_bytes);
            continue;
        }
        for (int64_t j = 0; j < rows.width; j += LANES)
            store_until(rows.type, to, j, rows.width, load_until(rows.type, from, j, rows.width) * weight);
    }
}

/* All of them. Ends with all threads having met. */
INLINE void sort_rows(pool *p, int thread, router_shape s, expert_rows rows, int64_t pairs, experts_scratch e) {
    const int64_t first = share_start(p, thread, pairs), end = share_start(p, thread + 1, pairs);
    float *scales = rows.x_scale ? e.sorted_scale + first : NULL;
    gather_met_rows(s, rows, first, end, e, e.sorted + first * rows.row_bytes, scales);
    pool_barrier(p);
}

/* Row by row: residual + weight * result of each choice (without weights that rows had before), in the order of the
 * experts' numbers. */
INLINE void sum_results(pool *p, int thread, int64_t hidden, router_shape s, int64_t rows, experts_scratch e,
                        const float *residual, float *y) {
    const int64_t top_k = s.top_k;
    const int64_t vectors = ceil_div(hidden, LANES), all = rows * vectors;
    for (int64_t i = share_start(p, thread, all); i < share_start(p, thread + 1, all); i++) {
        const int64_t row = i / vectors, column = i % vectors * LANES;
        f32x16 sum = splat(0.0f);
        for (int64_t j = row * top_k; j < (row + 1) * top_k; j++) {
            const float *result = e.results + (int64_t)e.places[j] * hidden;
            const float weight = weighs_inputs(s) ? 1.0f : e.weights[j];
            sum = fma16(splat(weight), load_until(F32, result, column, hidden), sum);
        }
        if (residual) sum += load_until(F32, residual + row * hidden, column, hidden);
        store_until(F32, y + row * hidden, column, hidden, sum);
    }
}

#endif
