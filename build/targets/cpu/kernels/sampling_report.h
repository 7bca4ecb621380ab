/* What is reported of a row: log probabilities under the model's own logits, the most likely tokens, ranks. */
#ifndef INFLIGHT_SAMPLING_REPORT_H
#define INFLIGHT_SAMPLING_REPORT_H

#include "abi.h"
#include "sampling_filter.h"
#include "sampling_scratch.h"

/* log of the sum of exp over a sane row; its greatest value goes to `max`. 0 when that is -INFINITY. */
static inline double sampling_log_sum(const sampling_scratch *at, int vocab, float *max) {
    *max = at->row[sampling_best(at, vocab)];
    return *max == -INFINITY ? 0.0 : log(sampling_weights(at->row, SAMPLING_PADDED(vocab), *max, 1.0f, NULL));
}

static inline float sampling_logprob(float value, float max, double log_sum) {
    return value == -INFINITY ? -INFINITY : (float)((double)value - (double)max - log_sum);
}

static inline void sampling_write_top(const sampling_scratch *at, int vocab, int wanted, float max, double log_sum,
                                      int32_t *top_ids, float *top_logprobs) {
    if (wanted > INFLIGHT_MAX_TOP_LOGPROBS) wanted = INFLIGHT_MAX_TOP_LOGPROBS;
    const int count = wanted > 0 ? sampling_top_k(at->row, vocab, wanted, at->ids, at->maxima) : 0;
    for (int i = 0; i < count; ++i) { /* insertion sort; ids come in ascending order, so equal values keep it */
        const int32_t id = at->ids[i];
        int place = i;
        for (; place > 0 && at->row[top_ids[place - 1]] < at->row[id]; --place) top_ids[place] = top_ids[place - 1];
        top_ids[place] = id;
    }
    for (int i = 0; i < count; ++i) top_logprobs[i] = sampling_logprob(at->row[top_ids[i]], max, log_sum);
}

/* From 1: how many tokens come before `token` in the model's own order, the lower id first among equals. */
static inline int32_t sampling_rank(const float *logits, int vocab, int32_t token) {
    const float value = sampling_sane(logits[token]);
    int32_t rank = 1;
    for (int i = 0; i < vocab; ++i) rank += sampling_sane(logits[i]) > value;
    for (int i = 0; i < token; ++i) rank += sampling_sane(logits[i]) == value;
    return rank;
}

#endif
