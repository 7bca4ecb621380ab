/* One draw by inverse CDF in the order of ids, among all tokens of a row or some of them. Weights are exact: see
 * sampling_math.h. */
#ifndef INFLIGHT_SAMPLING_DRAW_H
#define INFLIGHT_SAMPLING_DRAW_H

#include "abi.h"
#include "philox.h"
#include "sampling_math.h"

/* Exact, and so in no order: four sums at once do not wait for each other. */
static inline double sampling_sum(const float *weights, const int32_t *ids, int count) {
    double sums[4] = {0.0, 0.0, 0.0, 0.0};
    int i = 0;
    for (; i + 4 <= count; i += 4)
        for (int j = 0; j < 4; ++j) sums[j] += (double)weights[ids[i + j]];
    for (; i < count; ++i) sums[0] += (double)weights[ids[i]];
    return sums[0] + sums[1] + sums[2] + sums[3];
}

/* The first token at which the running sum of weights passes `target`, which is less than their sum. */
static inline int32_t sampling_walk(const float *weights, const int32_t *ids, int count, double sum, double target) {
    for (int i = 0; i < count; ++i) {
        const int32_t id = ids ? ids[i] : i;
        sum += (double)weights[id];
        if (sum > target) return id;
    }
    return 0;
}

/* As sampling_walk from 0 over `ids`, block after block. */
static inline int32_t sampling_draw_id(const float *weights, const int32_t *ids, int count, double target) {
    double sum = 0.0;
    int start = 0;
    for (; start + SAMPLING_BLOCK < count; start += SAMPLING_BLOCK) {
        const double block = sampling_sum(weights, ids + start, SAMPLING_BLOCK);
        if (sum + block > target) break;
        sum += block;
    }
    return sampling_walk(weights, ids + start, count - start, sum, target);
}

static inline double sampling_target(const inflight_sampling *s, double total) {
    return fmin(philox_uniform(s->seed, s->position) * total, nextafter(total, 0.0));
}

static inline int32_t sampling_draw_row(const float *weights, int vocab, double target) {
    double sum = 0.0;
    int start = 0;
    for (; start + SAMPLING_BLOCK < vocab; start += SAMPLING_BLOCK) {
        const double block = sampling_block_sum(weights + start);
        if (sum + block > target) break;
        sum += block;
    }
    return start + sampling_walk(weights + start, NULL, vocab - start, sum, target);
}

#endif
