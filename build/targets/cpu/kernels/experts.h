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
#include "strips.h"

#define FEW_LOGITS 4096 /* one thread routes so many sooner than all of them meet */

typedef struct {
    element type;
    activation gate;
    router_shape router;
    int64_t hidden, size;
} experts_shape;

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

/* Every group's rows times the panels of its expert. `all` has x and y of all pairs; if `alone`, x is one row, which
 * every expert meets. */
INLINE void multiply_groups(pool *p, int thread, product all, const expert_panels *m, int alone, expert_groups g,
                            const void *later) {
    const element act = act_type(all.type);
    expert_group group;
    panel_piece piece;
    product_work work;
    work.configured = 0;
    while (take_group_piece(p, thread, m, g, later, &group, &piece)) {
        product own = all;
        own.rows = group.count;
        own.bias = bias_of(all.bias, m, group);
        if (!alone) own.x = at(act, all.x, group.start * all.k);
        own.y = all.gate ? at(act, all.y, group.start * all.n) : (float *)all.y + group.start * all.n;
        multiply_piece(own, piece, &work);
    }
    end_pieces(&work);
}

INLINE void route_rows(router_shape s, int64_t first, int64_t end, const float *logits, const float *bias,
                       experts_scratch e) {
    for (int64_t row = first; row < end; row++)
        route_row(s, logits + row * s.count, bias, e.chosen + row * s.top_k, e.weights + row * s.top_k);
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
        number_pieces(p, e.groups, gated_panels, e.groups.gated);
        number_pieces(p, e.groups, projected_panels, e.groups.projected);
    }
    pool_barrier(p);
}

/* The rows of each expert side by side, with their scales where they have some. Where weights multiply what experts
 * meet, they do it here: scales, or the `width` elements of a row. */
INLINE void sort_rows(pool *p, int thread, router_shape s, int64_t pairs, const void *x, int64_t row_bytes,
                      const float *x_scale, element type, int64_t width, experts_scratch e) {
    for (int64_t i = share_start(p, thread, pairs); i < share_start(p, thread + 1, pairs); i++) {
        const int64_t row = e.order[i] / s.top_k;
        const void *from = (const unsigned char *)x + row * row_bytes;
        void *to = e.sorted + i * row_bytes;
        const float weight = weighs_inputs(s) ? e.weights[e.order[i]] : 1.0f;
        if (x_scale) e.sorted_scale[i] = x_scale[row] * weight;
        if (x_scale || !weighs_inputs(s)) {
            memcpy(to, from, (size_t)row_bytes);
            continue;
        }
        for (int64_t j = 0; j < width; j += LANES)
            store_until(type, to, j, width, load_until(type, from, j, width) * weight);
    }
    pool_barrier(p);
}

/* Row by row: residual + weight * result of each choice (without weights that rows had before), from the first to the
 * last. */
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

/* y [rows][hidden] float32; x act [rows][hidden], logits float32 [rows][count]; fc and proj are the panels of all
 * experts, their biases as wide as those, or NULL. The residual may be NULL, and may be y. */
INLINE void mix_experts(pool *p, int thread, experts_shape s, int64_t rows, const void *x, const void *fc,
                        const void *proj, const float *fc_bias, const float *proj_bias, const float *logits, const float *choice_bias,
                        const float *residual, float *y, void *scratch) {
    const int64_t act = element_size(act_type(s.type)), top_k = s.router.top_k, pairs = rows * top_k;
    const experts_scratch e = lay_out_experts(s.router.count, s.hidden, s.size, act * s.hidden, act * s.size, 0, pairs,
                                              scratch);
    if (rows == 0) return;
    const int alone = rows == 1 && !weighs_inputs(s.router); /* every expert meets the one row where it is */
    const product gated = {s.type, s.hidden, s.size, 0, alone ? x : e.sorted, fc, fc_bias, NULL, e.inner, s.gate};
    const product projected = {s.type, s.size, s.hidden, 0, e.inner, proj, proj_bias, NULL, e.results, NO_ACTIVATION};
    const expert_panels first = {fc, panel_bytes(s.type, s.hidden), panels_of(gated), e.groups.gated};
    const expert_panels second = {proj, panel_bytes(s.type, s.size), panels_of(projected), e.groups.projected};
    group_rows(p, thread, s.router, rows, logits, choice_bias, e, first.panels, second.panels);
    if (!alone) sort_rows(p, thread, s.router, pairs, x, act * s.hidden, NULL, act_type(s.type), s.hidden, e);
    const int64_t share = share_start(p, thread, second.pieces[*e.groups.active]);
    multiply_groups(p, thread, gated, &first, alone, e.groups, panel_of_piece(&second, e.groups, share));
    pool_barrier(p);
    multiply_groups(p, thread, projected, &second, 0, e.groups, p->shares[thread].expected);
    pool_barrier(p);
    sum_results(p, thread, s.hidden, s.router, rows, e, residual, y);
}

#endif
