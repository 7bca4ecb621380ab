/* A mixture of experts: y = residual + the weighted sum of what a row's experts make of it.
 *
 * Rows are placed side by side by their experts, and each expert's rows meet its panels in the products of linear.h:
 * all of them are one list of pieces (expert, panel, block of rows) that threads share. Panels of an expert that no row
 * chose are not read. A row's results are summed in the order of its experts' numbers, so that its bits depend neither
 * on its company nor on threads. */
#ifndef INFLIGHT_EXPERTS_H
#define INFLIGHT_EXPERTS_H

#include "expert_blocks.h"
#include "linear.h"
#include "strips.h"

typedef struct {
    element type;
    activation gate;
    router_shape router;
    int64_t hidden, size;
} experts_shape;

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

/* The first product of experts that have many rows; `all` has y of all pairs. Ends with all threads having met. */
INLINE void gate_blocks(pool *p, int thread, product all, const expert_panels *m, router_shape s, expert_rows rows,
                        experts_scratch e, int64_t pairs) {
    unsigned char *own_rows = e.sorted + thread * block_rows(p, pairs) * rows.row_bytes;
    expert_block block;
    product_work work;
    work.configured = 0;
    while (take_block(p, m, e.groups, &block)) {
        const int64_t start = block.group.start + block.first;
        product own = all;
        own.rows = block.count, own.x = own_rows;
        own.bias = bias_of(all.bias, m, block.group);
        own.y = at(act_type(all.type), all.y, start * all.n);
        gather_block(s, rows, &block, e, own_rows, NULL);
        for (int64_t i = 0; i < pieces_of_block(m, &block); i++)
            multiply_piece(own, piece_of_block(m, &block, i), &work);
    }
    end_pieces(&work);
    pool_barrier(p);
}

/* y = residual + the sum of what experts make of rows that are many for them; `all` has x of all pairs. */
INLINE void sum_groups(pool *p, int thread, product all, const expert_panels *m, router_shape s, int64_t rows,
                       experts_scratch e, const float *residual, float *y) {
    _Alignas(CACHE_LINE) float sums[SUM_ROWS][PANEL];
    sum_walk walk = begin_sums(sums, rows, all.n, residual, y);
    panel_piece piece;
    product_work work;
    work.configured = 0;
    while (next_of_sums(p, thread, m, s, e, &walk, &piece)) {
        const row_sums into = sums_of_part(&walk, s, e);
        product own = all;
        own.rows = walk.part.count, own.into = &into;
        own.bias = bias_of(all.bias, m, walk.part);
        own.x = at(act_type(all.type), all.x, walk.part.start * all.k);
        multiply_piece(own, piece, &work);
    }
    end_pieces(&work);
}

/* y [rows][hidden] float32; x act [rows][hidden], logits float32 [rows][count]; fc and proj are the panels of all
 * experts, their biases as wide as those, or NULL. The residual may be NULL, and may be y. */
INLINE void mix_experts(pool *p, int thread, experts_shape s, int64_t rows, const void *x, const void *fc,
                        const void *proj, const float *fc_bias, const float *proj_bias, const float *logits,
                        const float *choice_bias, const float *residual, float *y, void *scratch) {
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
    const expert_rows met = {x, NULL, act * s.hidden, act_type(s.type), s.hidden};
    if (many_for_experts(p, e.groups, pairs)) {
        gate_blocks(p, thread, gated, &first, s.router, met, e, pairs);
        sum_groups(p, thread, projected, &second, s.router, rows, e, residual, y);
        return;
    }
    if (!alone) sort_rows(p, thread, s.router, met, pairs, e);
    const int64_t share = share_start(p, thread, second.pieces[*e.groups.active]);
    multiply_groups(p, thread, gated, &first, alone, e.groups, panel_of_piece(&second, e.groups, share));
    pool_barrier(p);
    multiply_groups(p, thread, projected, &second, 0, e.groups, p->shares[thread].expected);
    pool_barrier(p);
    sum_results(p, thread, s.hidden, s.router, rows, e, residual, y);
}

#endif
