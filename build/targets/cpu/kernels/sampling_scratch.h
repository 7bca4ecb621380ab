/* What sampling of one row writes, beside its results. */
#ifndef INFLIGHT_SAMPLING_SCRATCH_H
#define INFLIGHT_SAMPLING_SCRATCH_H

#include "sampling_math.h"

/* Bytes of scratch for one row, 64-byte aligned: the adjusted row, its weights, token ids, one maximum per block. */
#define INFLIGHT_SAMPLE_SCRATCH(vocab) \
    (12 * SAMPLING_PADDED(vocab) + (SAMPLING_BLOCKS(vocab) * 4 + 63) / 64 * 64)

typedef struct {
    float *row, *weights;
    int32_t *ids;
    float *maxima;
} sampling_scratch;

static inline sampling_scratch sampling_divide_scratch(void *scratch, int vocab) {
    float *const row = (float *)scratch;
    const int64_t padded = SAMPLING_PADDED(vocab);
    return (sampling_scratch){row, row + padded, (int32_t *)(row + 2 * padded), row + 3 * padded};
}

/* The first token; 0 when nothing is greater than -INFINITY. */
static inline int32_t sampling_best(const sampling_scratch *at, int vocab) {
    const int32_t block = sampling_argmax(at->maxima, SAMPLING_BLOCKS(vocab));
    int32_t id = block * SAMPLING_BLOCK;
    while (at->row[id] != at->maxima[block]) ++id;
    return id;
}

#endif
