/* The online softmax (Dao et al., FlashAttention), one step per split of the context.
 *
 * A split is SPLIT_TOKENS tokens from a multiple of it: each is computed for itself, from its own maximum, and merged
 * from the first to the last. So a row's result is a function of what it sees alone. A split in which a row sees
 * nothing is not merged. */
#ifndef INFLIGHT_ATTENTION_SOFTMAX_H
#define INFLIGHT_ATTENTION_SOFTMAX_H

#include "activation.h"
#include "attention_work.h"

/* Of some queries, over one split or several: per query the greatest score, the sum of the weights, and the weighted
 * values [padded head]. LANES maxima can be read, however few queries there are. */
typedef struct {
    float *maxima, *totals, *out;
} tile_results;

/* A weight is 2^((score - maximum) * exponent_scale). */
INLINE float exponent_scale(attention_shape s) { return (s.softcap != 0.0f ? s.softcap : s.scale) * 1.44269504f; }

/* Scores of a soft cap, in units of it; without one they are as they were. */
INLINE f32x16 cap_scores(attention_shape s, f32x16 scores) {
    return s.softcap != 0.0f ? tanh16(scores * (s.scale / s.softcap)) : scores;
}

/* The greater of two lanes; either where one is NaN. */
INLINE f32x16 greater16(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return __builtin_ia32_maxps512(a, b, 4);
#else
    return select16(a > b, a, b);
#endif
}

INLINE float greatest16(f32x16 x) {
    x = greater16(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    x = greater16(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7));
    x = greater16(x, __builtin_shufflevector(x, x, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3));
    return x[0] > x[1] ? x[0] : x[1];
}

/* 2^x for x <= 0: x = n + f with n whole, then a minimax polynomial in f of degree 6 (relative error 2e-7), or of
 * degree 3 (1e-4) where the result is rounded to bfloat16. Exactly 1 at 0, exactly 0 from -127 down, so at -infinity;
 * just above -127, below the least normal number, only its size is right. Clamped as integers: of two negative numbers
 * the lesser has the greater bits, and a positive x, a rounding error above 0, is left alone. */
INLINE f32x16 weight16(element rounded_to, f32x16 x) {
    const f32x16 magic = splat(12582912.0f); /* 1.5 * 2^23: a sum with it has n in its low bits */
    const f32x16 clamped = (f32x16)__builtin_elementwise_min((u32x16)x, (u32x16)splat(-127.0f));
    const f32x16 whole = clamped + magic, f = clamped - (whole - magic);
    f32x16 p;
    if (rounded_to == BF16) {
        p = fma16(splat(5.500893e-2f), f, splat(2.4221096e-1f));
        p = fma16(p, f, splat(6.9328293e-1f));
    } else {
        p = fma16(splat(1.535336188e-4f), f, splat(1.339887440e-3f));
        p = fma16(p, f, splat(9.618437357e-3f));
        p = fma16(p, f, splat(5.550332471e-2f));
        p = fma16(p, f, splat(2.402264791e-1f));
        p = fma16(p, f, splat(6.931472029e-1f));
    }
    p = fma16(p, f, splat(1.0f));
    return (f32x16)((i32x16)p + ((i32x16)whole << 23));
}

/* The vectors of a split's scores that were computed, and the tokens that one query sees of them, all counted from the
 * split's first token, whose bias for the query is bias[0]. */
typedef struct {
    int64_t from, to, low, high;
    const float *bias;
} visible_tokens;

/* Whether there is more to a score than the product of query and key. */
INLINE int finishes_scores(attention_shape s) {
    return s.softcap != 0.0f || s.bias_width > 0 || s.distance_width > 0;
}

/* Scores of vector `v` as they are compared: capped, or with the bias of the query, in units of 1 / scale. What distances
 * add is scaled with the products. */
INLINE f32x16 finish_scores(attention_shape s, visible_tokens seen, int64_t v, f32x16 scores) {
    if (s.distance_width > 0) return scores + load16(F32, seen.bias, v * LANES);
    if (s.bias_width == 0) return cap_scores(s, scores);
    return fma16(load16(F32, seen.bias, v * LANES), splat(1.0f / s.scale), scores);
}

/* Scores of vector `v` that the query does not see become -infinity. */
INLINE f32x16 hide_vector(visible_tokens seen, int64_t v, f32x16 scores) {
    const i32x16 token = lane_numbers() + (int32_t)(v * LANES);
    const i32x16 visible = (token >= (int32_t)seen.low) & (token <= (int32_t)seen.high);
    return select16(visible, scores, splat(-__builtin_inff()));
}

/* The query sees every token of the vectors from first_whole to end_whole, and of no others. */
INLINE int64_t first_whole(visible_tokens seen) { return max_int(seen.from, ceil_div(seen.low, LANES)); }
INLINE int64_t end_whole(visible_tokens seen) { return min_int(seen.to, (seen.high + 1) / LANES); }

/* Finishes scores and hides what the query does not see; returns the greatest of the others. */
INLINE float greatest_score(attention_shape s, visible_tokens seen, float *scores) {
    f32x16 greatest = splat(-__builtin_inff());
    for (int64_t v = seen.from; v < seen.to; v++) {
        f32x16 x = finish_scores(s, seen, v, load16(F32, scores, v * LANES));
        if (finishes_scores(s)) store16(F32, scores, v * LANES, x);
        if (v < first_whole(seen) || v >= end_whole(seen)) store16(F32, scores, v * LANES, x = hide_vector(seen, v, x));
        greatest = greater16(x, greatest);
    }
    return greatest16(greatest);
}

/* What is added to score * exponent_scale, so that the greatest weight is 1. */
INLINE float exponent_offset(attention_shape s, float maximum) {
    return maximum == -__builtin_inff() ? 0.0f : -maximum * exponent_scale(s);
}

/* The weights of 16 scores, 0 where one is hidden; `offset` is exponent_offset of the greatest score. */
INLINE f32x16 weights_at(attention_shape s, element rounded_to, const float *scores, int64_t i, float offset) {
    return weight16(rounded_to, fma16(load16(F32, scores, i), splat(exponent_scale(s)), splat(offset)));
}

/* What a row's weighted values are multiplied by: `factor` over their total, to which the head's sink adds its weight
 * beside the greatest score. Where that is greater than all others, values and total shrink instead. */
INLINE float share_of_values(attention_shape s, float factor, float maximum, float total, int64_t head) {
    if (!s.sinks) return factor / total;
    const float distance = s.sinks[head] * 1.44269504f - maximum * exponent_scale(s);
    if (distance > 0.0f) {
        const float smaller = weight16(F32, splat(-distance))[0];
        return factor * smaller / (total * smaller + 1.0f);
    }
    return factor / (total + weight16(F32, splat(distance))[0]);
}

INLINE void clear_results(attention_shape s, int64_t count, tile_results results) {
    for (int64_t n = 0; n < count; n++) results.maxima[n] = -__builtin_inff(), results.totals[n] = 0.0f;
    for (int64_t d = 0; d < count * padded_head(s.cache); d += LANES) store16(F32, results.out, d, splat(0.0f));
}

/* `whole` takes in the results of the next split, of up to 16 queries. */
INLINE void merge_split(attention_shape s, int64_t count, tile_results part, tile_results whole) {
    const int64_t width = padded_head(s.cache);
    const f32x16 before = load16(F32, whole.maxima, 0), now = load16(F32, part.maxima, 0);
    const f32x16 greatest = greater16(before, now);
    float maxima[LANES], old_factors[LANES], factors[LANES];
    store16(F32, maxima, 0, greatest);
    store16(F32, old_factors, 0, weight16(F32, (before - greatest) * exponent_scale(s)));
    store16(F32, factors, 0, weight16(F32, (now - greatest) * exponent_scale(s)));
    for (int64_t n = 0; n < count; n++) {
        if (part.maxima[n] == -__builtin_inff()) continue;
        whole.maxima[n] = maxima[n];
        whole.totals[n] = whole.totals[n] * old_factors[n] + part.totals[n] * factors[n];
        for (int64_t d = n * width; d < (n + 1) * width; d += LANES)
            store16(F32, whole.out, d,
                    fma16(load16(F32, part.out, d), splat(factors[n]), load16(F32, whole.out, d) * old_factors[n]));
    }
}

#endif
