/* The watermark of Kirchenbauer et al. 2023, "A Watermark for Large Language Models": the logits of the tokens that the
 * token before favours are raised. runtime/sampling/watermark.py is the same definition in NumPy. */
#ifndef INFLIGHT_SAMPLING_WATERMARK_H
#define INFLIGHT_SAMPLING_WATERMARK_H

#include "abi.h"
#include "sampling_math.h"

#define SAMPLING_WATERMARK_KEY 15485863u

typedef uint32_t sampling_words __attribute__((ext_vector_type(SAMPLING_LANES), aligned(4)));

/* A permutation of 32-bit words: the finalizer "lowbias32" of Wellons's "Hash Prospector". */
static inline sampling_words sampling_scramble(sampling_words x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* Add watermark_delta to the values of the favoured tokens of a padded row. */
static inline void sampling_watermark(float *row, int64_t padded, int32_t previous, const inflight_sampling *s) {
    const sampling_words lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const sampling_words key = sampling_scramble((sampling_words)((uint32_t)previous ^ SAMPLING_WATERMARK_KEY));
    const uint32_t below = (uint32_t)((double)s->watermark_gamma * 0x1p32);
    for (int64_t i = 0; i < padded; i += SAMPLING_LANES) {
        const sampling_words word = sampling_scramble(sampling_scramble((lanes + (uint32_t)i) ^ key) + key);
        const sampling_ints favoured = word < (sampling_words)below;
        const sampling_floats one = -__builtin_convertvector(favoured, sampling_floats);
        const sampling_floats value = sampling_load(row + i) + one * s->watermark_delta;
        memcpy(row + i, &value, sizeof value);
    }
}

#endif
