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

/* How the two products go: as one list of pieces, or in blocks (expert_blocks.h). Both products have one place where a
 * tile is called from, since tiles are most of what the compiler works on. */
typedef struct {
    router_shape router;
    int many, alone; /* alone: x is one row, which every expert meets */
    int64_t rows;
    const void *later; /* what a thread probably reads behind its share */
} expert_way;

INLINE void quantize_block(quantized_row inner, const expert_block *block, const float *products, int64_t width,
                           experts_scratch e) {
    const int64_t start = block->group.start + block->first;
    for (int64_t i = 0; i < block->count; i++)
        quantize_row(inner, (row_values){F32, products + i * width, NULL, 1.0f, NULL},
                     quantized_at(inner, e.inner, start + i), e.inner_scale + start + i);
}

/* The first product; in blocks, whose results are rounded as soon as their rows have all columns. `all` has x and y of
 * all pairs. */
INLINE void gate_quantized(pool *p, int thread, quantized_product all, const expert_panels *m, expert_way way,
                           expert_rows met, quantized_row inner, experts_scratch e) {
    const int64_t place = thread * block_rows(p, way.rows * way.router.top_k);
    unsigned char *rows = e.sorted + place * met.row_bytes;
    expert_block block;
    panel_piece piece;
    int64_t number = 0, pieces = 0; /* of the block: the next one, and how many there are */
    QUANTIZED_WORK(work, all.shape);
    for (;;) {
        quantized_product own = all;
        if (way.many) {
            if (number == pieces) {
                if (!take_block(p, m, e.groups, &block)) break;
                gather_block(way.router, met, &block, e, rows, e.sorted_scale + place);
                number = 0, pieces = pieces_of_block(m, &block);
            }
            piece = piece_of_block(m, &block, number++);
            own.x = rows, own.x_scale = e.sorted_scale + place, own.y = all.y + place * all.n;
        } else {
            if (!take_group_piece(p, thread, m, e.groups, way.later, &block.group, &piece)) break;
            const int64_t start = block.group.start;
            block.count = block.group.count;
            if (!way.alone) own.x = quantized_at(all.shape.row, all.x, start), own.x_scale = all.x_scale + start;
            own.y = all.y + start * all.n;
        }
        own.rows = block.count;
        own.bias = bias_of(all.bias, m, block.group);
        multiply_quantized_piece(own, &piece, &work);
        if (way.many && number == pieces) quantize_block(inner, &block, own.y, all.n, e);
    }
    end_quantized_pieces(&work);
}

/* The second product: in blocks, y = residual + the sum of what experts make of rows. `all` has x and y of all
 * pairs. */
INLINE void project_quantized(pool *p, int thread, quantized_product all, const expert_panels *m, expert_way way,
                              experts_scratch e, const float *residual, float *y) {
    _Alignas(CACHE_LINE) float sums[SUM_ROWS][PANEL];
    sum_walk walk = begin_sums(sums, way.rows, all.n, residual, y);
    panel_piece piece;
    QUANTIZED_WORK(work, all.shape);
    while (way.many ? next_of_sums(p, thread, m, way.router, e, &walk, &piece)
                    : take_group_piece(p, thread, m, e.groups, way.later, &walk.part, &piece)) {
        const row_sums into = sums_of_part(&walk, way.router, e);
        const int64_t start = walk.part.start;
        quantized_product own = all;
        own.rows = walk.part.count, own.into = way.many ? &into : NULL;
        own.bias = bias_of(all.bias, m, walk.part);
        own.x = quantized_at(all.shape.row, all.x, start), own.x_scale = all.x_scale + start;
        own.y = all.y + start * all.n;
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
                                  const float *proj_bias, const float *logits, const float *choice_bias,
                                  const float *residual, float *y, void *scratch) {
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
    const expert_rows met = {x, x_scale, quantized_row_bytes(outer), F32, 0};
    const int many = many_for_experts(p, e.groups, pairs);
    if (!many && !alone) sort_rows(p, thread, s.router, met, pairs, e);
    const int64_t share = many ? 0 : share_start(p, thread, second.pieces[*e.groups.active]);
    expert_way way = {s.router, many, alone, rows, many ? NULL : panel_of_piece(&second, e.groups, share)};
    gate_quantized(p, thread, gated, &first, way, met, inner, e);
    pool_barrier(p);
    if (!many) {
        quantize_rows(p, thread, F32, inner, pairs, e.products, e.inner, e.inner_scale);
        pool_barrier(p);
    }
    way.later = p->shares[thread].expected;
    project_quantized(p, thread, projected, &second, way, e, residual, y);
    if (many) return;
    pool_barrier(p);
    sum_results(p, thread, hidden, s.router, rows, e, residual, y);
}

#endif
