/* Which experts each row meets, and with which weights; then the rows of each expert side by side.
 *
 * Logits of a row decide about that row alone. Of equal logits the lower number is chosen. */
#ifndef INFLIGHT_ROUTER_H
#define INFLIGHT_ROUTER_H

#include "attention_softmax.h"

#define LOG2_E 1.44269504f

typedef enum {
    ROUTE_SOFTMAX,
    ROUTE_RENORMALIZED,
    ROUTE_SPARSE_MIXER,
    ROUTE_BIASED_SOFTMAX,
    ROUTE_BIASED_SIGMOID,
    ROUTE_SIGMOID_INPUTS /* weights multiply the rows that experts meet */
} routing;

typedef struct {
    routing kind;
    int64_t count, top_k;
    float epsilon; /* of the sparse mixer; with a bias, the least that scores are divided by */
    float scale;   /* of the weights, with a bias or of softmax */
    int64_t groups, top_groups;
} router_shape;

/* e^(value - greatest), for values up to it. */
INLINE f32x16 share16(f32x16 values, float greatest) { return weight16(F32, (values - greatest) * LOG2_E); }

/* Lanes from `count` on read as minus infinity. */
INLINE f32x16 load_logits(const float *logits, int64_t i, int64_t count) {
    const f32x16 values = load_until(F32, logits, i, count);
    return select16(lane_numbers() < splat_int((int32_t)(count - i)), values, splat(-__builtin_inff()));
}

/* The sum of e^(value - greatest): 16 lanes, each a chain over the values, then one tree. */
INLINE float sum_of_shares(const float *values, int64_t count, float greatest) {
    f32x16 sums = splat(0.0f);
    for (int64_t i = 0; i < count; i += LANES) sums += share16(load_logits(values, i, count), greatest);
    return sum16(sums);
}

/* The greatest logits, from the greatest on, and their numbers. A NaN is never greater, so that numbers are some. */
INLINE void choose_experts(router_shape s, const float *logits, int32_t *chosen, float *greatest) {
    for (int64_t expert = 0; expert < s.count; expert++) {
        const float value = logits[expert];
        int64_t place = min_int(expert, s.top_k - 1);
        if (expert >= s.top_k && !(value > greatest[place])) continue;
        for (; place > 0 && value > greatest[place - 1]; place--) {
            greatest[place] = greatest[place - 1];
            chosen[place] = chosen[place - 1];
        }
        greatest[place] = value;
        chosen[place] = (int32_t)expert;
    }
}

/* The sum of the shares of the experts that are near the greatest one, the `taken` ones aside. */
INLINE float sum_of_near(router_shape s, const float *logits, float greatest, int32_t taken) {
    f32x16 sums = splat(0.0f);
    for (int64_t i = 0; i < s.count; i += LANES) {
        const f32x16 values = load_logits(logits, i, s.count);
        const f32x16 magnitude = select16(values < splat(0.0f), -values, values);
        const f32x16 scale = select16(magnitude > splat(greatest), magnitude, splat(greatest));
        i32x16 left_out = (greatest - values) / scale > splat(2.0f * s.epsilon);
        left_out |= lane_numbers() >= splat_int((int32_t)(s.count - i));
        left_out |= lane_numbers() == splat_int(taken - (int32_t)i);
        sums += select16(left_out, splat(0.0f), share16(values, greatest));
    }
    return sum16(sums);
}

/* Scores of the experts of all but `top_groups` groups become minus infinity: a group has the greatest score of its
 * experts, or with a bias the sum of the two greatest. */
INLINE void close_groups(router_shape s, float *scores) {
    const int64_t size = s.count / s.groups;
    const int64_t counted = s.kind == ROUTE_BIASED_SOFTMAX || s.kind == ROUTE_BIASED_SIGMOID ? 2 : 1;
    router_shape of_groups = s;
    of_groups.count = s.groups, of_groups.top_k = s.top_groups;
    float greatest[s.groups], best[s.groups];
    int32_t chosen[s.groups];
    for (int64_t group = 0; group < s.groups; group++) {
        float pair[2];
        int32_t numbers[2];
        router_shape inside = s;
        inside.count = size, inside.top_k = counted;
        choose_experts(inside, scores + group * size, numbers, pair);
        greatest[group] = counted == 2 ? pair[0] + pair[1] : pair[0];
    }
    choose_experts(of_groups, greatest, chosen, best);
    for (int64_t group = 0; group < s.groups; group++) {
        int open = 0;
        for (int64_t i = 0; i < s.top_groups; i++) open |= chosen[i] == group;
        for (int64_t i = group * size; i < (group + 1) * size && !open; i++) scores[i] = -__builtin_inff();
    }
}

/* The score of each expert: its share of the softmax, or the logistic function of its logit. */
INLINE void score_experts(router_shape s, const float *logits, float *scores) {
    float greatest = logits[0];
    for (int64_t expert = 1; expert < s.count; expert++) greatest = logits[expert] > greatest ? logits[expert] : greatest;
    const int sigmoid = s.kind == ROUTE_BIASED_SIGMOID;
    const float total = sigmoid ? 1.0f : sum_of_shares(logits, s.count, greatest);
    for (int64_t i = 0; i < s.count; i += LANES) {
        const f32x16 values = load_logits(logits, i, s.count);
        store_until(F32, scores, i, s.count,
                    sigmoid ? over_one_plus_power(splat(1.0f), values * splat(-LOG2_E))
                            : share16(values, greatest) / total);
    }
}

/* Chosen by score and bias together, weighed by the scores. */
INLINE void route_biased_row(router_shape s, const float *logits, const float *bias, int32_t *chosen, float *weights) {
    float scores[round_up(s.count, LANES)], sums[round_up(s.count, LANES)], total = 0.0f;
    score_experts(s, logits, scores);
    for (int64_t expert = 0; expert < s.count; expert++) sums[expert] = scores[expert] + bias[expert];
    if (s.groups > 1) close_groups(s, sums);
    choose_experts(s, sums, chosen, weights);
    for (int64_t i = 0; i < s.top_k; i++) total += weights[i] = scores[chosen[i]];
    for (int64_t i = 0; i < s.top_k; i++) weights[i] = weights[i] * s.scale / (total > s.epsilon ? total : s.epsilon);
}

/* Experts and weights of one row; the bias is that of the choice, or NULL. */
INLINE void route_row(router_shape s, const float *logits, const float *bias, int32_t *chosen, float *weights) {
    if (s.kind == ROUTE_BIASED_SOFTMAX || s.kind == ROUTE_BIASED_SIGMOID) {
        route_biased_row(s, logits, bias, chosen, weights);
        return;
    }
    if (s.groups > 1) {
        float open[round_up(s.count, LANES)];
        memcpy(open, logits, (size_t)s.count * sizeof *logits);
        close_groups(s, open);
        choose_experts(s, open, chosen, weights);
    } else {
        choose_experts(s, logits, chosen, weights);
    }
    if (s.kind == ROUTE_SPARSE_MIXER) {
        const float first = weights[0], second = weights[1];
        weights[0] = 1.0f / sum_of_near(s, logits, first, -1);
        weights[1] = 1.0f / sum_of_near(s, logits, second, chosen[0]);
        return;
    }
    if (s.kind == ROUTE_SIGMOID_INPUTS) {
        for (int64_t i = 0; i < s.top_k; i += LANES)
            store_until(F32, weights, i, s.top_k,
                        over_one_plus_power(splat(1.0f), load_logits(weights, i, s.top_k) * splat(-LOG2_E)));
        return;
    }
    const float greatest = weights[0];
    const float total = s.kind == ROUTE_RENORMALIZED ? sum_of_shares(weights, s.top_k, greatest)
                                                     : sum_of_shares(logits, s.count, greatest);
    for (int64_t i = 0; i < s.top_k; i += LANES)
        store_until(F32, weights, i, s.top_k, share16(load_logits(weights, i, s.top_k), greatest) / total * s.scale);
}

/* The choices of a row in the order of their experts' numbers, in which they are summed. */
INLINE void order_choices(int64_t top_k, int32_t *chosen, float *weights) {
    for (int64_t i = 1; i < top_k; i++) {
        const int32_t expert = chosen[i];
        const float weight = weights[i];
        int64_t place = i;
        for (; place > 0 && chosen[place - 1] > expert; place--) {
            chosen[place] = chosen[place - 1];
            weights[place] = weights[place - 1];
        }
        chosen[place] = expert, weights[place] = weight;
    }
}

/* One expert that some rows met: rows start .. start + count of those that lie side by side. */
typedef struct {
    int32_t expert, start, count;
} expert_group;

/* The groups of a step, in memory that threads share. Pieces of a product are numbered: group i has those from
 * `gated[i]` and `projected[i]` on, and one entry more says where the last one's end. */
typedef struct {
    int32_t *active; /* how many there are */
    expert_group *groups;
    int64_t *gated, *projected;
} expert_groups;

/* Places the (row, choice) pairs of each expert side by side, experts in order of their numbers and rows in theirs:
 * `order` has the pair at each place, `places` the place of each pair. `cursor` is scratch, one number an expert. */
INLINE void group_by_expert(router_shape s, int64_t pairs, const int32_t *chosen, int32_t *cursor, int32_t *order,
                            int32_t *places, expert_groups g) {
    memset(cursor, 0, (size_t)s.count * sizeof *cursor);
    for (int64_t i = 0; i < pairs; i++) cursor[chosen[i]]++;
    int32_t start = 0;
    *g.active = 0;
    for (int64_t expert = 0; expert < s.count; expert++) {
        const int32_t count = cursor[expert];
        if (count) g.groups[(*g.active)++] = (expert_group){(int32_t)expert, start, count};
        cursor[expert] = start;
        start += count;
    }
    for (int64_t i = 0; i < pairs; i++) {
        places[i] = cursor[chosen[i]]++;
        order[places[i]] = (int32_t)i;
    }
}

#endif
