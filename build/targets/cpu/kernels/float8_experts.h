/* A mixture of experts whose weights are 8-bit floats: quantized_experts.h with the products of float8.h, and rows of
 * E4M3 or bfloat16. */
#ifndef INFLIGHT_FLOAT8_EXPERTS_H
#define INFLIGHT_FLOAT8_EXPERTS_H

#include "float8.h"
#include "quantized_experts.h"

/* `inner`: what becomes of rows between the two products. */
typedef struct {
    float8_shape fc, proj;
    float8_row inner;
    activation gate;
    router_shape router;
} float8_experts_shape;

/* The first product, as gate_quantized. */
INLINE void gate_float8(pool *p, int thread, float8_product all, const expert_panels *m, expert_way way,
                        expert_rows met, float8_row inner, experts_scratch e) {
    const int64_t place = thread * block_rows(p, way.rows * way.router.top_k);
    unsigned char *rows = e.sorted + place * met.row_bytes;
    expert_block block;
    panel_piece piece;
    int64_t number = 0, pieces = 0, configured = 0; /* pieces of the block: the next one, and how many */
    for (;;) {
        float8_product own = all;
        if (way.many) {
            if (number == pieces) {
                if (!take_block(p, m, e.groups, &block)) break;
                gather_block(way.router, met, &block, e, rows, e.sorted_scale + place);
                number = 0, pieces = pieces_of_block(m, &block);
            }
            piece = piece_of_block(m, &block, number++);
            own.x = (const uint16_t *)rows, own.x_scale = e.sorted_scale + place, own.y = all.y + place * all.n;
        } else {
            if (!take_group_piece(p, thread, m, e.groups, way.later, &block.group, &piece)) break;
            const int64_t start = block.group.start;
            block.count = block.group.count;
            if (!way.alone) own.x = all.x + start * all.shape.k, own.x_scale = all.x_scale + start;
            own.y = all.y + start * all.n;
        }
        own.rows = block.count;
        own.bias = bias_of(all.bias, m, block.group);
        multiply_float8(own, &piece, &configured);
        if (!way.many || number < pieces) continue;
        const int64_t start = block.group.start + block.first;
        for (int64_t i = 0; i < block.count; i++)
            round_float8_row(inner, (row_values){F32, own.y + i * all.n, NULL, 1.0f, NULL}, 0.0f,
                             (uint16_t *)e.inner + (start + i) * inner.width, e.inner_scale + start + i);
    }
    end_float8_pieces(configured);
}

/* The second product, as project_quantized. */
INLINE void project_float8(pool *p, int thread, float8_product all, const expert_panels *m, expert_way way,
                           experts_scratch e, const float *residual, float *y) {
    _Alignas(CACHE_LINE) float sums[SUM_ROWS][PANEL];
    sum_walk walk = begin_sums(sums, way.rows, all.n, residual, y);
    panel_piece piece;
    int64_t configured = 0;
    while (way.many ? next_of_sums(p, thread, m, way.router, e, &walk, &piece)
                    : take_group_piece(p, thread, m, e.groups, way.later, &walk.part, &piece)) {
        const row_sums into = sums_of_part(&walk, way.router, e);
        const int64_t start = walk.part.start;
        float8_product own = all;
        own.rows = walk.part.count, own.into = way.many ? &into : NULL;
        own.bias = bias_of(all.bias, m, walk.part);
        own.x = all.x + start * all.shape.k, own.x_scale = all.x_scale + start;
        own.y = all.y + start * all.n;
        multiply_float8(own, &piece, &configured);
    }
    end_float8_pieces(configured);
}

INLINE expert_panels float8_expert_panels(float8_product m, const int64_t *pieces) {
    return (expert_panels){m.weight, float8_panel_bytes(m.shape), float8_panels_of(m), pieces};
}

/* As mix_experts; x are rows that float8_rows made, with their scales. */
INLINE void mix_float8_experts(pool *p, int thread, float8_experts_shape s, int64_t rows, const void *x,
                               const float *x_scale, const void *fc, const void *proj, const float *fc_bias,
                               const float *proj_bias, const float *logits, const float *choice_bias,
                               const float *residual, float *y, void *scratch) {
    const int64_t top_k = s.router.top_k, pairs = rows * top_k, hidden = s.fc.k, size = s.proj.k;
    const int64_t value = (int64_t)sizeof(uint16_t);
    const experts_scratch e =
        lay_out_experts(s.router.count, hidden, size, value * hidden, value * size, 1, pairs, scratch);
    if (rows == 0) return;
    const int alone = rows == 1 && !weighs_inputs(s.router);
    const float8_product gated = {s.fc, size, 0, alone ? x : (const void *)e.sorted, alone ? x_scale : e.sorted_scale,
                                  fc, fc_bias, NULL, e.products, s.gate, NULL};
    const float8_product projected = {s.proj, hidden, 0, (const void *)e.inner, e.inner_scale, proj, proj_bias, NULL,
                                      e.results, NO_ACTIVATION, NULL};
    const expert_panels first = float8_expert_panels(gated, e.groups.gated);
    const expert_panels second = float8_expert_panels(projected, e.groups.projected);
    group_rows(p, thread, s.router, rows, logits, choice_bias, e, first.panels, second.panels);
    const expert_rows met = {x, x_scale, value * hidden, F32, 0};
    const int many = many_for_experts(p, e.groups, pairs);
    if (!many && !alone) sort_rows(p, thread, s.router, met, pairs, e);
    const int64_t share = many ? 0 : share_start(p, thread, second.pieces[*e.groups.active]);
    expert_way way = {s.router, many, alone, rows, many ? NULL : panel_of_piece(&second, e.groups, share)};
    gate_float8(p, thread, gated, &first, way, met, s.inner, e);
    pool_barrier(p);
    if (!many) {
        float8_rows(p, thread, F32, s.inner, pairs, e.products, NULL, 0.0f, e.inner, e.inner_scale);
        pool_barrier(p);
    }
    way.later = p->shares[thread].expected;
    project_float8(p, thread, projected, &second, way, e, residual, y);
    if (many) return;
    pool_barrier(p);
    sum_results(p, thread, hidden, s.router, rows, e, residual, y);
}

#endif
