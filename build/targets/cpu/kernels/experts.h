/* A mixture of experts: y = residual + the weighted sum of what a row's experts make of it.
 *
 * Rows are placed side by side by their experts, and each expert's rows meet its panels in the products of linear.h:
 * all of them are one list of pieces (expert, panel, block of rows) that threads share. Panels of an expert that no row
 * chose are not read. A row's results are summed in the order in which it chose its experts, so that its bits depend
 * neither on its company nor on threads. */
#ifndef INFLIGHT_EXPERTS_H
#define INFLIGHT_EXPERTS_H

#include "linear.h"
#include "router.h"

#define FEW_LOGITS 4096 /* one thread routes so many sooner than all of them meet */

typedef struct {
    element type;
    activation gate;
    router_shape router;
    int64_t hidden, size;
} experts_shape;

/* The scratch memory of a step; `pairs` are rows times choices. experts.py of the packing has the same sizes. */
typedef struct {
    int32_t *chosen, *order, *places, *cursor;
    float *weights, *results;      /* [pairs], [pairs][hidden] */
    unsigned char *sorted, *inner; /* act [pairs][hidden], [pairs][size] */
    expert_groups groups;
} experts_scratch;

INLINE void *take_bytes(unsigned char **memory, int64_t bytes) {
    unsigned char *start = *memory;
    *memory += round_up(bytes, CACHE_LINE);
    return start;
}

INLINE experts_scratch lay_out_experts(experts_shape s, int64_t pairs, void *scratch) {
    const int64_t act = element_size(act_type(s.type)), count = s.router.count;
    unsigned char *memory = scratch;
    experts_scratch e;
    e.chosen = take_bytes(&memory, 4 * pairs);
    e.order = take_bytes(&memory, 4 * pairs);
    e.places = take_bytes(&memory, 4 * pairs);
    e.weights = take_bytes(&memory, 4 * pairs);
    e.sorted = take_bytes(&memory, act * pairs * s.hidden);
    e.inner = take_bytes(&memory, act * pairs * s.size);
    e.results = take_bytes(&memory, 4 * pairs * s.hidden);
    e.cursor = take_bytes(&memory, 4 * count);
    e.groups.groups = take_bytes(&memory, 12 * count);
    e.groups.gated = take_bytes(&memory, 8 * (count + 1));
    e.groups.projected = take_bytes(&memory, 8 * (count + 1));
    e.groups.active = take_bytes(&memory, 4);
    return e;
}

/* One of the two products of all experts. `pieces` are those of expert_groups. */
typedef struct {
    product of_one; /* x and y of all pairs, the weights of all experts; rows are the group's */
    int64_t expert_bytes, panels;
    const int64_t *pieces;
    int one_row; /* x is one row, which every expert meets */
} grouped_product;

INLINE grouped_product group_product(product m, const int64_t *pieces, int one_row) {
    return (grouped_product){m, panels_of(m) * panel_bytes(m.type, m.k), panels_of(m), pieces, one_row};
}

/* Numbers the pieces of a product: as many blocks of rows for each expert as a product of all panels together has. */
INLINE void number_pieces(const pool *p, expert_groups g, int64_t panels, int64_t *pieces) {
    pieces[0] = 0;
    for (int64_t i = 0; i < *g.active; i++)
        pieces[i + 1] = pieces[i] + panels * row_blocks(p, g.groups[i].count, panels * *g.active);
}

/* The group that has a piece. */
INLINE int64_t group_of_piece(const grouped_product *m, int64_t active, int64_t piece) {
    int64_t low = 0, high = active - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (m->pieces[middle] <= piece) low = middle;
        else high = middle - 1;
    }
    return low;
}

INLINE const unsigned char *panel_at(const grouped_product *m, expert_group group, int64_t panel) {
    return (const unsigned char *)m->of_one.weight + group.expert * m->expert_bytes +
           panel * panel_bytes(m->of_one.type, m->of_one.k);
}

/* Where the panel of a piece lies; NULL when there is none of that number. */
INLINE const unsigned char *panel_of_piece(const grouped_product *m, expert_groups g, int64_t piece) {
    if (piece >= m->pieces[*g.active]) return NULL;
    const int64_t i = group_of_piece(m, *g.active, piece);
    const int64_t blocks = (m->pieces[i + 1] - m->pieces[i]) / m->panels;
    return panel_at(m, g.groups[i], (piece - m->pieces[i]) / blocks);
}

/* Every group's rows times the panels of its expert. `later` is what this thread probably reads behind its share. */
INLINE void multiply_groups(pool *p, int thread, grouped_product m, expert_groups g, const void *later) {
    const element act = act_type(m.of_one.type);
    const int64_t all = m.pieces[*g.active];
    product_work work;
    work.configured = 0;
    for (shared_piece taken; (taken = pool_take_near(p, thread, all, 1)).number >= 0;) {
        const int64_t item = taken.number, i = group_of_piece(&m, *g.active, item);
        const expert_group group = g.groups[i];
        const int64_t blocks = (m.pieces[i + 1] - m.pieces[i]) / m.panels, inside = item - m.pieces[i];
        product own = m.of_one;
        own.rows = group.count;
        if (!m.one_row) own.x = at(act, m.of_one.x, group.start * own.k);
        own.y = own.gate ? at(act, m.of_one.y, group.start * own.n) : (float *)m.of_one.y + group.start * own.n;
        panel_piece piece = block_of_rows(inside / blocks, inside % blocks, blocks, group.count);
        piece.columns = panel_at(&m, group, piece.panel);
        piece.block = inside % blocks, piece.blocks = blocks;
        const int64_t behind = item + blocks - piece.block; /* the first piece of the next panel */
        piece.following = behind >= taken.end ? later : panel_of_piece(&m, g, behind);
        multiply_piece(own, piece, &work);
    }
    end_pieces(&work);
}

INLINE void route_rows(experts_shape s, int64_t first, int64_t end, const float *logits, experts_scratch e) {
    for (int64_t row = first; row < end; row++)
        route_row(s.router, logits + row * s.router.count, e.chosen + row * s.router.top_k,
                  e.weights + row * s.router.top_k);
}

/* Row by row: residual + weight * result of each choice, from the first to the last. */
INLINE void sum_results(pool *p, int thread, experts_shape s, int64_t rows, experts_scratch e, const float *residual,
                        float *y) {
    const int64_t vectors = ceil_div(s.hidden, LANES), all = rows * vectors, top_k = s.router.top_k;
    for (int64_t i = share_start(p, thread, all); i < share_start(p, thread + 1, all); i++) {
        const int64_t row = i / vectors, column = i % vectors * LANES;
        f32x16 sum = splat(0.0f);
        for (int64_t j = row * top_k; j < (row + 1) * top_k; j++) {
            const float *result = e.results + (int64_t)e.places[j] * s.hidden;
            sum = fma16(splat(e.weights[j]), load_until(F32, result, column, s.hidden), sum);
        }
        if (residual) sum += load_until(F32, residual + row * s.hidden, column, s.hidden);
        store_until(F32, y + row * s.hidden, column, s.hidden, sum);
    }
}

/* y [rows][hidden] float32; x act [rows][hidden], logits float32 [rows][count]; fc and proj are the panels of all
 * experts. The residual may be NULL, and may be y. */
INLINE void mix_experts(pool *p, int thread, experts_shape s, int64_t rows, const void *x, const void *fc,
                        const void *proj, const float *logits, const float *residual, float *y, void *scratch) {
    const element act = act_type(s.type);
    const int64_t top_k = s.router.top_k, pairs = rows * top_k, row_bytes = s.hidden * element_size(act);
    const experts_scratch e = lay_out_experts(s, pairs, scratch);
    if (rows == 0) return;
    const int alone = rows == 1; /* every expert meets the one row where it is */
    const product gated = {s.type, s.hidden, s.size, 0, alone ? x : e.sorted, fc, NULL, NULL, e.inner, s.gate};
    const product projected = {s.type, s.size, s.hidden, 0, e.inner, proj, NULL, NULL, e.results, NO_ACTIVATION};
    const grouped_product first = group_product(gated, e.groups.gated, alone);
    const grouped_product second = group_product(projected, e.groups.projected, 0);
    const int few = rows * s.router.count <= FEW_LOGITS;
    if (!few) {
        route_rows(s, share_start(p, thread, rows), share_start(p, thread + 1, rows), logits, e);
        pool_barrier(p);
    }
    if (thread == 0) {
        if (few) route_rows(s, 0, rows, logits, e);
        group_by_expert(s.router, pairs, e.chosen, e.cursor, e.order, e.places, e.groups);
        number_pieces(p, e.groups, first.panels, e.groups.gated);
        number_pieces(p, e.groups, second.panels, e.groups.projected);
    }
    pool_barrier(p);
    if (!alone) {
        for (int64_t i = share_start(p, thread, pairs); i < share_start(p, thread + 1, pairs); i++)
            memcpy(e.sorted + i * row_bytes, (const unsigned char *)x + e.order[i] / top_k * row_bytes,
                   (size_t)row_bytes);
        pool_barrier(p);
    }
    const int64_t share = share_start(p, thread, second.pieces[*e.groups.active]);
    multiply_groups(p, thread, first, e.groups, panel_of_piece(&second, e.groups, share));
    pool_barrier(p);
    multiply_groups(p, thread, second, e.groups, p->shares[thread].expected);
    pool_barrier(p);
    sum_results(p, thread, s, rows, e, residual, y);
}

#endif
