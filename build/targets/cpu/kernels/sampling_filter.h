/* The most likely tokens of a row without sorting it.
 *
 * Tokens are ordered by value, the lower id first among equals. Every filter keeps a prefix of that order: the
 * tokens before which less than `limit` has been counted (top_k counts tokens, top_p counts weight). */
#ifndef INFLIGHT_SAMPLING_FILTER_H
#define INFLIGHT_SAMPLING_FILTER_H

#include "sampling_math.h"

#define SAMPLING_INTERVALS 2048
#define SAMPLING_FEW 1024

/* Where a prefix ends: all tokens above `value` are in it, and of those equal to it as many as `before` allows. */
typedef struct {
    float value;
    double before; /* counted over the tokens above `value` */
} sampling_cut;

/* Unsigned integers in the order of the floats. */
static inline uint32_t sampling_key(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static inline float sampling_key_value(uint32_t key) {
    const uint32_t bits = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Radix selection, most significant digit first. `ids` NULL means 0 .. count - 1; `amounts` NULL counts tokens.
 * Amounts are integers or multiples of 2^-32, so the sums are exact. `before` is counted already; limit > before. */
static inline sampling_cut sampling_radix_cut(const float *values, const int32_t *ids, int count, const float *amounts,
                                              double limit, double before) {
    static const struct {
        uint32_t shift, last;
    } digits[] = {{21, 2047}, {10, 2047}, {0, 1023}};
    uint32_t prefix = 0, mask = 0;
    for (int level = 0; level < 3; ++level) {
        const uint32_t shift = digits[level].shift, last = digits[level].last;
        double counted[2048] = {0.0};
        uint32_t lowest = last;
        for (int i = 0; i < count; ++i) {
            const int32_t id = ids ? ids[i] : i;
            const uint32_t key = sampling_key(values[id]);
            if ((key & mask) != prefix) continue;
            const uint32_t digit = key >> shift & last;
            counted[digit] += amounts ? (double)amounts[id] : 1.0;
            lowest = digit < lowest ? digit : lowest;
        }
        uint32_t digit = last;
        for (; digit > lowest && before + counted[digit] < limit; --digit) before += counted[digit];
        prefix |= digit << shift;
        mask |= last << shift;
    }
    return (sampling_cut){sampling_key_value(prefix), before};
}

/* Of many ids those among which a prefix ends, to `few`: the values in one of many intervals of equal width between the
 * greatest and the least. (The first digits of a radix would be the same for most: values that lie close together.)
 * Returns how many (0: more than there is room for); what is counted above them is added to `before`. */
static inline int sampling_narrow(const float *values, const int32_t *ids, int count, const float *amounts,
                                  double limit, double *before, int32_t few[SAMPLING_FEW]) {
    float high = values[ids[0]], low = high;
    for (int i = 1; i < count; ++i) {
        const float value = values[ids[i]];
        high = value > high ? value : high;
        low = value < low ? value : low;
    }
    const float scale = (SAMPLING_INTERVALS - 1) / (high - low);
    if (!(scale > 0.0f && scale < FLT_MAX)) return 0;
    double counted[SAMPLING_INTERVALS] = {0.0};
    for (int i = 0; i < count; ++i)
        counted[(int)((high - values[ids[i]]) * scale)] += amounts ? (double)amounts[ids[i]] : 1.0;
    const int last = (int)((high - low) * scale);
    double above = *before;
    int interval = 0, found = 0;
    for (; interval < last && above + counted[interval] < limit; ++interval) above += counted[interval];
    for (int i = 0; i < count; ++i) {
        if ((int)((high - values[ids[i]]) * scale) != interval) continue;
        if (found == SAMPLING_FEW) return 0;
        few[found++] = ids[i];
    }
    *before = above;
    return found;
}

static inline sampling_cut sampling_find_cut(const float *values, const int32_t *ids, int count, const float *amounts,
                                             double limit) {
    int32_t few[SAMPLING_FEW];
    double before = 0.0;
    const int found = count > SAMPLING_FEW ? sampling_narrow(values, ids, count, amounts, limit, &before, few) : 0;
    return found ? sampling_radix_cut(values, few, found, amounts, limit, before)
                 : sampling_radix_cut(values, ids, count, amounts, limit, 0.0);
}

/* Keep the prefix of `ids` (ascending, and so they stay) that ends at `limit`; returns its length. */
static inline int sampling_keep_prefix(const float *values, int32_t *ids, int count, const float *amounts,
                                       double limit) {
    sampling_cut cut = sampling_find_cut(values, ids, count, amounts, limit);
    int kept = 0;
    for (int i = 0; i < count; ++i) {
        const int32_t id = ids[i];
        int keep = values[id] > cut.value; /* no branch: which tokens are kept is not to be predicted */
        if (values[id] == cut.value && cut.before < limit) {
            cut.before += amounts ? (double)amounts[id] : 1.0;
            keep = 1;
        }
        ids[kept] = id;
        kept += keep;
    }
    return kept;
}

/* Write the ids, ascending, of all values of at least `cut` in a padded row; returns how many. */
static inline int sampling_collect(const float *values, int vocab, float cut, int32_t *ids) {
    int count = 0;
    for (int start = 0; start < vocab; start += SAMPLING_BLOCK) {
        if (sampling_block_max(values + start) < cut) continue;
        const int end = start + SAMPLING_BLOCK < vocab ? start + SAMPLING_BLOCK : vocab;
        for (int i = start; i < end; ++i) {
            ids[count] = i;
            count += values[i] >= cut;
        }
    }
    return count;
}

/* The ids, ascending, of the `k` first tokens of a padded row; returns how many (k, or all). The k-th greatest block
 * maximum has at least k values that are no less, so only what reaches it is looked at. `maxima` are the blocks'. */
static inline int sampling_top_k(const float *row, int vocab, int k, int32_t *ids, const float *maxima) {
    const int blocks = SAMPLING_BLOCKS(vocab);
    const float cut = k < blocks ? sampling_radix_cut(maxima, NULL, blocks, NULL, k, 0.0).value : -INFINITY;
    const int count = sampling_collect(row, vocab, cut, ids);
    return count > k ? sampling_keep_prefix(row, ids, count, NULL, k) : count;
}

#endif
