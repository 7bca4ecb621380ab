/* The mask of what structured output allows: a bit for each token, in words of 32, the lowest bit first. Bits behind the
 * vocabulary mean nothing. */
#ifndef INFLIGHT_SAMPLING_MASK_H
#define INFLIGHT_SAMPLING_MASK_H

#include "sampling_math.h"

/* The word `word` of a mask, with 0 behind the vocabulary. */
static inline uint32_t sampling_word(const uint32_t *allowed, int vocab, int word) {
    const int left = vocab - word * 32;
    return left >= 32 ? allowed[word] : allowed[word] & ((1u << left) - 1u);
}

static inline int sampling_count(const uint32_t *allowed, int vocab) {
    int count = 0;
    for (int word = 0; word * 32 < vocab; ++word) count += __builtin_popcount(sampling_word(allowed, vocab, word));
    return count;
}

/* The token whose bit is the one behind `before` others. */
static inline int32_t sampling_nth_allowed(const uint32_t *allowed, int before) {
    int word = 0;
    for (int here; (here = __builtin_popcount(allowed[word])) <= before; ++word) before -= here;
    uint32_t bits = allowed[word];
    for (; before > 0; --before) bits &= bits - 1u;
    return word * 32 + __builtin_ctz(bits);
}

/* Ban the tokens of a padded row whose bit is 0, and bring the maxima of its blocks up to date. Of most masks most words
 * allow all of their tokens, or none. */
static inline void sampling_mask(float *row, int vocab, const uint32_t *allowed, float *maxima) {
    for (int block = 0; block * SAMPLING_BLOCK < vocab; ++block) {
        int changes = 0;
        for (int word = block * (SAMPLING_BLOCK / 32); word * 32 < vocab && word < (block + 1) * (SAMPLING_BLOCK / 32); ++word) {
            const uint32_t bits = allowed[word];
            if (bits == 0xffffffffu) continue;
            changes = 1;
            float *values = row + word * 32;
            for (int bit = 0; bit < 32; ++bit) values[bit] = bits >> bit & 1 ? values[bit] : -INFINITY;
        }
        if (changes) maxima[block] = sampling_block_max(row + (int64_t)block * SAMPLING_BLOCK);
    }
}

/* Sane values of the allowed tokens alone, one behind the other in the order of ids, padded, with the maxima of their
 * blocks; returns how many. */
static inline int sampling_gather(const float *logits, int vocab, const uint32_t *allowed, float *row, float *maxima) {
    int count = 0;
    for (int word = 0; word * 32 < vocab; ++word)
        for (uint32_t bits = sampling_word(allowed, vocab, word); bits != 0; bits &= bits - 1u)
            row[count++] = sampling_sane(logits[word * 32 + __builtin_ctz(bits)]);
    for (int64_t i = count; i < SAMPLING_PADDED(count); ++i) row[i] = -INFINITY;
    for (int block = 0; block < SAMPLING_BLOCKS(count); ++block)
        maxima[block] = sampling_block_max(row + (int64_t)block * SAMPLING_BLOCK);
    return count;
}

#endif
