/* A mixture of experts whose rows and weights are integers: experts.h with the products of qlinear.h. What is between
 * the two products of an expert is float32, and rounded row by row. */
#ifndef INFLIGHT_QUANTIZED_EXPERTS_H
#define INFLIGHT_QUANTIZED_EXPERTS_H

#include "experts.h"
#include "qlinear.h"

typedef struct {
    quantized_shape fc, proj;
    activation gate;
    router_shape router;
} quantized_experts_shape;

INLINE int64_t quantized_row_bytes(quantized_row q) { return q.digits * digit_stride(q.width); }

/* As multiply_groups. */
INLINE void multiply_quantized_groups(pool *p, int thread, quantized_product all, const expert_panels *m, int alone,
                                      expert_groups g, const void *later) {
    expert_group group;
    panel_piece piece;
    QUANTIZED_WORK(work, all.shape);
    while (take_group_piece(p, thread, m, g, later, &group, &piece)) {
        quantized_product own = all;
        own.rows = group.count;
        own.bias = bias_of(all.bias, m, group);
        if (!alone) own.x = quantized_at(all.shape.row, all.x, group.start), own.x_scale = all.x_scale + group.start;
        own.y = all.y + group.start * all.n;
        multiply_quantized_piece(own, &piece, &work);
    }
    end_quantized_pieces(&work);
}

INLINE expert_panels quantized_expert_panels(quantized_product m, const int64_t *pieces) {
    return (expert_panels){m.weight, quantized_panel_bytes(m.shape), quantized_panels_of(m), pieces};
}

/* As mix_experts; x are rows of integers (quantize.h) with their scales. */
INLINE void mix_quantized_experts(pool *p, int thread, quantized_experts_shape s, int64_t rows, const void *x,
                                  const float *x_scale, const void *fc, const void *proj, const float *fc_bias,
                                  const float *proj_bias, const float *logits, const float *choice_bias, const float *residual, float *y,
                                  void *scratch) {
    const quantized_row outer = s.fc.row, inner = s.proj.row;
    const int64_t top_k = s.router.top_k, pairs = rows * top_k, hidden = outer.width, size = inner.width;
    const experts_scratch e = lay_out_experts(s.router.count, hidden, size, quantized_row_bytes(outer),
                                              quantized_row_bytes(inner), 1, pairs, scratch);
    if (rows == 0) return;
    const int alone = rows == 1 && !weighs_inputs(s.router);
    const quantized_product gated = {
        s.fc, size, 0, alone ? x : e.sorted, alone ? x_scale : e.sorted_scale, fc, fc_bias, NULL, e.products, s.gate};
    const quantized_product projected = {s.proj, hidden, 0,    e.inner,   e.inner_scale,
                                         proj,   proj_bias, NULL, e.results, NO_ACTIVATION};
    const expert_panels first = quantized_expert_panels(gated, e.groups.gated);
    const expert_panels second = quantized_expert_panels(projected, e.groups.projected);
    group_rows(p, thread, s.router, rows, logits, choice_bias, e, first.panels, second.panels);
    if (!alone) sort_rows(p, thread, s.router, pairs, x, quantized_row_bytes(outer), x_scale, F32, 0, e);
    const int64_t share = share_start(p, thread, second.pieces[*e.groups.active]);
    multiply_quantized_groups(p, thread, gated, &first, alone, e.groups, panel_of_piece(&second, e.groups, share));
    pool_barrier(p);
    quantize_rows(p, thread, F32, inner, pairs, e.products, e.inner, e.inner_scale);
    pool_barrier(p);
    multiply_quantized_groups(p, thread, projected, &second, 0, e.groups, p->shares[thread].expected);
    pool_barrier(p);
    sum_results(p, thread, hidden, s.router, rows, e, residual, y);
}

#endif
