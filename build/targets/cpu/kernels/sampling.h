/* Sampling of one logit row. runtime/sampling/reference.py is the same definition in NumPy.
 *
 * Order: log probabilities of the model's own logits; then on a copy: the mask of what is allowed, bias, the watermark,
 * repetition penalty (prompt and output; Keskar et al. 2019, "CTRL"), frequency and presence penalty (output);
 * temperature 0 takes the greatest; otherwise top_n_sigma (of the logits themselves), temperature, top_k, top_p (of the weight that top_k left), min_p (of the
 * greatest probability), typical_p (of the weight that they left), and one draw by inverse CDF in the order of ids. */
#ifndef INFLIGHT_SAMPLING_H
#define INFLIGHT_SAMPLING_H

#include "abi.h"
#include "sampling_draw.h"
#include "sampling_filter.h"
#include "sampling_mask.h"
#include "sampling_report.h"
#include "sampling_watermark.h"

/* `counts` has room for one integer per token; only the entries of tokens in the history are touched. */
static inline void sampling_penalize(float *row, int vocab, const inflight_sampling *s, int32_t *counts) {
#pragma clang fp contract(off)
    for (int i = 0; i < s->history_length; ++i)
        if ((uint32_t)s->history[i] < (uint32_t)vocab) counts[s->history[i]] = 0;
    for (int i = s->prompt_length; i < s->history_length; ++i)
        if ((uint32_t)s->history[i] < (uint32_t)vocab) ++counts[s->history[i]];
    for (int i = 0; i < s->history_length; ++i) {
        const int32_t id = s->history[i];
        if ((uint32_t)id >= (uint32_t)vocab || counts[id] < 0) continue;
        float value = row[id];
        value = value > 0.0f ? value / s->repetition_penalty : value * s->repetition_penalty;
        value -= s->frequency_penalty * (float)counts[id];
        if (counts[id] > 0) value -= s->presence_penalty;
        row[id] = sampling_sane(value);
        counts[id] = -1; /* each token is penalized once */
    }
}

static inline void sampling_find_maxima(const sampling_scratch *at, int vocab) {
    for (int block = 0; block < SAMPLING_BLOCKS(vocab); ++block)
        at->maxima[block] = sampling_block_max(at->row + (int64_t)block * SAMPLING_BLOCK);
}

static inline int sampling_adjusts(const inflight_sampling *s) {
    return s->num_bias > 0 || s->history_length > 0 || s->allowed != NULL || s->watermark_delta > 0.0f;
}

/* `previous`: the token behind which one is chosen. */
static inline void sampling_adjust(const sampling_scratch *at, int vocab, const inflight_sampling *s, int32_t previous) {
    if (s->allowed != NULL) sampling_mask(at->row, vocab, s->allowed, at->maxima);
    for (int i = 0; i < s->num_bias; ++i) {
        const int32_t id = s->bias_ids[i];
        if ((uint32_t)id < (uint32_t)vocab) at->row[id] = sampling_sane(at->row[id] + s->bias_values[i]);
    }
    if (s->watermark_delta > 0.0f) sampling_watermark(at->row, SAMPLING_PADDED(vocab), previous, s);
    if (s->history_length > 0) sampling_penalize(at->row, vocab, s, at->ids);
    if (s->num_bias > 0 || s->history_length > 0 || s->watermark_delta > 0.0f) sampling_find_maxima(at, vocab);
}

/* 1 where a value counts, 0 where the token is banned. */
static inline sampling_doubles sampling_counted(sampling_floats values) {
    return -__builtin_convertvector((sampling_ints)(values > -INFINITY), sampling_doubles);
}

/* Ban what lies more than top_n_sigma standard deviations below the greatest logit (Tang et al. 2024, "Top-n sigma");
 * banned tokens do not count. Sums run over the row in each of the lanes, then over the lanes. */
static inline void sampling_drop_far(const sampling_scratch *at, int vocab, const inflight_sampling *s, float max) {
#pragma clang fp contract(off)
    const int64_t padded = SAMPLING_PADDED(vocab);
    sampling_doubles counts = (sampling_doubles)0.0, sums = counts, squares = counts;
    for (int64_t i = 0; i < padded; i += SAMPLING_LANES) {
        const sampling_floats values = __builtin_elementwise_max(sampling_load(at->row + i), (sampling_floats)-FLT_MAX);
        const sampling_doubles counted = sampling_counted(sampling_load(at->row + i));
        counts += counted;
        sums += __builtin_convertvector(values, sampling_doubles) * counted;
    }
    const double count = sampling_lane_sum(counts), mean = sampling_lane_sum(sums) / count;
    for (int64_t i = 0; i < padded; i += SAMPLING_LANES) {
        const sampling_floats values = __builtin_elementwise_max(sampling_load(at->row + i), (sampling_floats)-FLT_MAX);
        const sampling_doubles deviations = __builtin_convertvector(values, sampling_doubles) - mean;
        squares += deviations * deviations * sampling_counted(sampling_load(at->row + i));
    }
    const double sigma = sqrt(sampling_lane_sum(squares) / count);
    const double least = (double)max - (double)s->top_n_sigma * sigma;
    for (int64_t i = 0; i < padded; ++i) at->row[i] = (double)at->row[i] < least ? -INFINITY : at->row[i];
    sampling_find_maxima(at, vocab);
}

/* Of at->ids (ascending, and so they stay) keep those whose surprise, -log p, is nearest to the entropy, until their
 * weights sum to typical_p of all, and what is as near as the last of them (Meister et al. 2022, "Locally Typical
 * Sampling"). With x = (value - max) / temperature, log p is x less a constant, so that the distance to the entropy is
 * |x - mean of x|. Its products are rounded to the grid of the weights: their sum is exact too, and has no order.
 * Overwrites at->row; returns how many. */
static inline int sampling_keep_typical(const sampling_scratch *at, int count, const inflight_sampling *s, float max) {
#pragma clang fp contract(off)
    const double grid = 0x1p20; /* as in sampling_weights */
    double total = 0.0, products = 0.0;
    int possible = 0, kept = 0;
    for (int i = 0; i < count; ++i) {
        const int32_t id = at->ids[i];
        const double weight = (double)at->weights[id];
        at->row[id] = fmaxf((at->row[id] - max) / s->temperature, -24.0f);
        total += weight;
        products += (weight * -(double)at->row[id] + grid) - grid;
        at->ids[possible] = id;
        possible += weight > 0.0;
    }
    const double mean = products / total;
    for (int i = 0; i < possible; ++i) {
        float *const value = at->row + at->ids[i];
        *value = 0.0f - (float)fabs(-(double)*value - mean); /* the nearest is the greatest */
    }
    const double limit = (double)s->typical_p * total;
    const float cut = sampling_find_cut(at->row, at->ids, possible, at->weights, limit).value;
    for (int i = 0; i < possible; ++i) {
        const int32_t id = at->ids[i];
        at->ids[kept] = id;
        kept += at->row[id] >= cut;
    }
    return kept;
}

/* The kept ids, ascending, go to at->ids; returns how many (at least one). */
static inline int sampling_filter_row(const sampling_scratch *at, int vocab, const inflight_sampling *s, float max,
                                      double total) {
    int count;
    if (s->top_k > 0 && s->top_k < vocab) {
        count = sampling_top_k(at->row, vocab, s->top_k, at->ids, at->maxima);
        total = sampling_sum(at->weights, at->ids, count);
    } else {
        /* Tokens lighter than (1 - top_p) / vocab of the total weigh less than 1 - top_p together: top_p drops them. */
        const double light = 0.999 * (1.0 - (double)s->top_p) * total / vocab;
        const float least = s->top_p < 1.0f ? (float)light : s->min_p;
        count = sampling_collect(at->weights, vocab, fmaxf(least, FLT_MIN), at->ids);
    }
    if (s->top_p < 1.0f) count = sampling_keep_prefix(at->row, at->ids, count, at->weights, (double)s->top_p * total);
    int kept = 0;
    for (int i = 0; i < count; ++i) {
        const int32_t id = at->ids[i];
        at->ids[kept] = id;
        kept += at->weights[id] >= s->min_p;
    }
    return s->typical_p < 1.0f ? sampling_keep_typical(at, kept, s, max) : kept;
}

static inline int32_t sampling_choose(const sampling_scratch *at, int vocab, const inflight_sampling *s) {
    const int32_t best = sampling_best(at, vocab);
    const float max = at->row[best];
    if (s->temperature <= 0.0f || max == -INFINITY) return best;
    if (s->top_n_sigma > 0.0f) sampling_drop_far(at, vocab, s, max);
    double total = sampling_weights(at->row, SAMPLING_PADDED(vocab), max, s->temperature, at->weights);
    if ((s->top_k <= 0 || s->top_k >= vocab) && s->top_p >= 1.0f && s->min_p <= 0.0f && s->typical_p >= 1.0f)
        return sampling_draw_row(at->weights, vocab, sampling_target(s, total));
    const int kept = sampling_filter_row(at, vocab, s, max, total);
    return sampling_draw_id(at->weights, at->ids, kept, sampling_target(s, sampling_sum(at->weights, at->ids, kept)));
}

/* Whether the tokens that a mask allows are chosen from by themselves, as a vocabulary of their own, which costs less than
 * the whole row where they are few. Every value, weight and sum is then the same: sums are exact and have no order, but
 * those of top_n_sigma, and bias, watermark and penalties are by id. */
static inline int sampling_is_few(const inflight_sampling *s, int vocab, int count) {
    return count <= vocab / 4 && s->num_bias == 0 && s->history_length == 0 && s->top_n_sigma <= 0.0f &&
           s->watermark_delta <= 0.0f;
}

static inline int32_t sampling_choose_few(const float *logits, int vocab, const inflight_sampling *s,
                                          const sampling_scratch *at) {
    const int count = sampling_gather(logits, vocab, s->allowed, at->row, at->maxima);
    if (count == 0) return 0;
    const int32_t place = sampling_choose(at, count, s);
    return at->row[place] == -INFINITY ? 0 : sampling_nth_allowed(s->allowed, place);
}

/* Write entry `row` of every array of `out` but `logits`. `logits` [vocab], behind the token `previous`, is read only;
 * `scratch` has INFLIGHT_SAMPLE_SCRATCH(vocab) bytes and belongs to the calling thread. */
static void inflight_sample_row(const float *logits, int vocab, const inflight_sampling *s, int32_t previous,
                                const inflight_output *out, int row, void *scratch) {
    const sampling_scratch at = sampling_divide_scratch(scratch, vocab);
    const int reports = s->num_top_logprobs >= 0;
    float max = 0.0f;
    double log_sum = 0.0;
    out->logprobs[row] = 0.0f;
    out->ranks[row] = 0;
    if (!reports && s->target < 0 && s->temperature <= 0.0f && !sampling_adjusts(s)) {
        out->tokens[row] = sampling_argmax(logits, vocab);
        return;
    }
    const int is_few = s->target < 0 && s->allowed != NULL && sampling_is_few(s, vocab, sampling_count(s->allowed, vocab));
    if (reports || !is_few) sampling_copy_sane(logits, vocab, at.row, at.maxima);
    if (reports) {
        const int64_t top = (int64_t)row * INFLIGHT_MAX_TOP_LOGPROBS;
        log_sum = sampling_log_sum(&at, vocab, &max);
        sampling_write_top(&at, vocab, s->num_top_logprobs, max, log_sum, out->top_ids + top, out->top_logprobs + top);
    }
    int32_t token = s->target;
    if (is_few) {
        token = sampling_choose_few(logits, vocab, s, &at);
    } else if (token < 0) {
        if (sampling_adjusts(s)) sampling_adjust(&at, vocab, s, previous);
        token = sampling_choose(&at, vocab, s);
    }
    out->tokens[row] = token;
    if (!reports || token >= vocab) return;
    out->logprobs[row] = sampling_logprob(sampling_sane(logits[token]), max, log_sum);
    out->ranks[row] = sampling_rank(logits, vocab, token);
}

#endif
