/* The online softmax (Dao et al., FlashAttention), one step per split of the context.
 *
 * A split is SPLIT_TOKENS tokens from a multiple of it: each is computed for itself, from its own maximum, and merged
 * from the first to the last. So a row's result is a function of what it sees alone. A split in which a row sees
 * nothing is not merged. */
#ifndef INFLIGHT_ATTENTION_SOFTMAX_H
#define INFLIGHT_ATTENTION_SOFTMAX_H

#include "attention_work.h"

/* Of one query, over one split or several: the greatest score, the sum of the weights, the weighted values [D]. */
typedef struct {
    float *maximum, *total, *out;
} softmax_state;

/* A weight is 2^((score - maximum) * exponent_scale). */
INLINE float exponent_scale(attention_shape s) { return s.scale * 1.44269504f; }

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

/* 2^x for x <= 0, at least 2^-126: x = n + f with n whole, then a minimax polynomial in f of degree 6 (relative error
 * 2e-7), or of degree 3 (1e-4) where the result is rounded to bfloat16. Exactly 1 at 0. The sum with `magic` has n in
 * its low bits. */
INLINE f32x16 weight16(element rounded_to, f32x16 x) {
    const f32x16 magic = splat(12582912.0f); /* 1.5 * 2^23 */
    const f32x16 clamped = greater16(x, splat(-126.0f)), whole = clamped + magic, f = clamped - (whole - magic);
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
 * split's first token. */
typedef struct {
    int64_t from, to, low, high;
} visible_tokens;

INLINE int sees_all(visible_tokens seen) {
    return seen.low <= seen.from * LANES && seen.to * LANES <= seen.high + 1;
}

/* Scores that the query does not see become -infinity. */
INLINE void hide_scores(visible_tokens seen, float *scores) {
    if (sees_all(seen)) return;
    for (int64_t v = seen.from; v < seen.to; v++) {
        i32x16 token = lane_numbers() + (int32_t)(v * LANES);
        i32x16 visible = (token >= (int32_t)seen.low) & (token <= (int32_t)seen.high);
        store16(F32, scores, v * LANES, select16(visible, load16(F32, scores, v * LANES), splat(-__builtin_inff())));
    }
}

INLINE float greatest_score(visible_tokens seen, const float *scores) {
    f32x16 greatest = splat(-__builtin_inff());
    _Pragma("clang loop unroll_count(4)") for (int64_t v = seen.from; v < seen.to; v++)
        greatest = greater16(load16(F32, scores, v * LANES), greatest);
    return greatest16(greatest);
}

/* What is added to score * exponent_scale, so that the greatest weight is 1. */
INLINE f32x16 exponent_offset(attention_shape s, float maximum) {
    return splat(maximum == -__builtin_inff() ? 0.0f : -maximum * exponent_scale(s));
}

/* Vector v of the weights; `offset` is exponent_offset of the greatest score. */
INLINE f32x16 weights_at(attention_shape s, element rounded_to, int whole, const float *scores, int64_t v,
                         f32x16 offset) {
    f32x16 score = load16(F32, scores, v * LANES);
    f32x16 weight = weight16(rounded_to, fma16(score, splat(exponent_scale(s)), offset));
    return whole ? weight : select16(score > splat(-__builtin_inff()), weight, splat(0.0f));
}

/* The scores of one query, `maximum` the greatest, become weights in the type in which the next product reads them;
 * returns their sum. `whole`: no score is hidden. */
INLINE float visible_weights(attention_shape s, visible_tokens seen, int whole, const float *scores, float maximum,
                             void *weights) {
    const element act = act_type(s.cache.type);
    const f32x16 offset = exponent_offset(s, maximum);
    f32x16 sum = splat(0.0f);
    _Pragma("clang loop unroll_count(4)") for (int64_t v = seen.from; v < seen.to; v++) {
        f32x16 weight = weights_at(s, act, whole, scores, v, offset);
        store16(act, weights, v * LANES, weight);
        sum += weight;
    }
    return sum16(sum);
}

INLINE float split_weights(attention_shape s, visible_tokens seen, const float *scores, float maximum, void *weights) {
    if (sees_all(seen)) return visible_weights(s, seen, 1, scores, maximum, weights);
    return visible_weights(s, seen, 0, scores, maximum, weights);
}

/* `state` takes in the result of the next split. */
INLINE void merge_split(attention_shape s, softmax_state part, softmax_state state) {
    if (*part.maximum == -__builtin_inff()) return;
    const float maximum = __builtin_elementwise_max(*state.maximum, *part.maximum);
    f32x16 shift = splat(*part.maximum - maximum);
    shift[0] = *state.maximum - maximum;
    const f32x16 factors = weight16(F32, shift * exponent_scale(s));
    const float before = *state.maximum == -__builtin_inff() ? 0.0f : factors[0];
    *state.maximum = maximum;
    *state.total = *state.total * before + *part.total * factors[1];
    for (int64_t d = 0; d < padded_head(s.cache); d += LANES)
        store16(F32, state.out, d,
                fma16(load16(F32, part.out, d), splat(factors[1]), load16(F32, state.out, d) * before));
}

INLINE void clear_state(attention_shape s, softmax_state state) {
    *state.maximum = -__builtin_inff();
    *state.total = 0.0f;
    for (int64_t d = 0; d < padded_head(s.cache); d += LANES) store16(F32, state.out, d, splat(0.0f));
}

#endif
