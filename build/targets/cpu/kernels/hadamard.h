/* Heads rotated so that no element stands out (Ashkboos et al., QuaRot, 2024): what four bits hold of them is then much
 * closer.
 *
 * A head is cut into pieces of powers of two, the greatest first, and each is multiplied by a Hadamard matrix over the
 * root of its size, which is its own inverse. Products of two rotated heads are those of the heads. Sums only, in one
 * order: the same bits on every machine. */
#ifndef INFLIGHT_HADAMARD_H
#define INFLIGHT_HADAMARD_H

#include "vec.h"

INLINE void spread_piece(int64_t size, float *x) {
    for (int64_t half = 1; half < size; half *= 2)
        for (int64_t block = 0; block < size; block += 2 * half)
            for (int64_t i = block; i < block + half; i++) {
                const float first = x[i], second = x[i + half];
                x[i] = first + second;
                x[i + half] = first - second;
            }
    const float scale = 1.0f / __builtin_sqrtf((float)size);
    for (int64_t i = 0; i < size; i++) x[i] *= scale;
}

/* y = x rotated; y may be x. */
INLINE void spread_head(int64_t head_size, const float *x, float *y) {
    if (y != x) memcpy(y, x, (size_t)head_size * sizeof *y);
    for (int64_t start = 0; start < head_size;) {
        int64_t size = 1;
        while (2 * size <= head_size - start) size *= 2;
        spread_piece(size, y + start);
        start += size;
    }
}

#endif
