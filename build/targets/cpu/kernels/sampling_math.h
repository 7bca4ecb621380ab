/* Arithmetic of sampling over one padded row.
 *
 * Two things make every result here the same on any machine, at any vector width and with any number of threads: products
 * and sums are never contracted, and softmax weights are rounded to multiples of 2^-32, so that sums of up to 2^20
 * of them are exact in double and have no order. Compile without -ffast-math. */
#ifndef INFLIGHT_SAMPLING_MATH_H
#define INFLIGHT_SAMPLING_MATH_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SAMPLING_LANES 8
#define SAMPLING_BLOCK 64

/* Rows in scratch are padded with -INFINITY to whole blocks. */
#define SAMPLING_PADDED(vocab) (((int64_t)(vocab) + SAMPLING_BLOCK - 1) / SAMPLING_BLOCK * SAMPLING_BLOCK)

typedef float sampling_f8 __attribute__((ext_vector_type(8), aligned(4)));
typedef int32_t sampling_i8 __attribute__((ext_vector_type(8), aligned(4)));
typedef double sampling_d8 __attribute__((ext_vector_type(8), aligned(8)));

static inline sampling_f8 sampling_load(const float *source) {
    sampling_f8 value;
    memcpy(&value, source, sizeof value);
    return value;
}

/* NaN counts as -INFINITY, +INFINITY as the largest float, and -0 as 0 (so that equal values have equal bits). */
static inline float sampling_sane(float value) { return (value == value ? fminf(value, FLT_MAX) : -INFINITY) + 0.0f; }

static inline void sampling_copy_sane(const float *logits, int vocab, float *row) {
    int i = 0;
    for (; i + SAMPLING_LANES <= vocab; i += SAMPLING_LANES) {
        const sampling_f8 number = __builtin_elementwise_max(sampling_load(logits + i), (sampling_f8)(-INFINITY));
        const sampling_f8 value = __builtin_elementwise_min(number, (sampling_f8)FLT_MAX) + 0.0f;
        memcpy(row + i, &value, sizeof value);
    }
    for (; i < vocab; ++i) row[i] = sampling_sane(logits[i]);
    for (; i < SAMPLING_PADDED(vocab); ++i) row[i] = -INFINITY;
}

static inline float sampling_block_max(const float *block) {
    sampling_f8 best = (sampling_f8)(-INFINITY);
    for (int i = 0; i < SAMPLING_BLOCK; i += SAMPLING_LANES)
        best = __builtin_elementwise_max(best, sampling_load(block + i));
    float result = best[0];
    for (int lane = 1; lane < SAMPLING_LANES; ++lane) result = best[lane] > result ? best[lane] : result;
    return result;
}

/* The lowest id among the greatest values; 0 when nothing is greater than -INFINITY. `row` need not be padded. */
static inline int32_t sampling_argmax(const float *row, int count) {
    float best = -INFINITY;
    int start = 0, end = 0, i = 0;
    for (; i + SAMPLING_BLOCK <= count; i += SAMPLING_BLOCK) {
        const float block = sampling_block_max(row + i);
        if (block > best) best = block, start = i, end = i + SAMPLING_BLOCK;
    }
    for (; i < count; ++i)
        if (row[i] > best) best = row[i], start = i, end = i + 1;
    for (i = start; i < end; ++i)
        if (row[i] == best) return i;
    return 0;
}

/* exp for x in [-24, 0] to about one unit in the last place: x = n ln 2 + r, the Taylor polynomial of degree 7 in r. */
static inline sampling_f8 sampling_exp(sampling_f8 x) {
#pragma clang fp contract(off)
    const sampling_f8 shifter = (sampling_f8)12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const sampling_f8 shifted = x * 1.44269504f + shifter;
    const sampling_f8 n = shifted - shifter;
    const sampling_f8 r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts, the first exact */
    sampling_f8 p = (sampling_f8)(1.0f / 5040.0f);
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    sampling_i8 bits, exponent;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23; /* the low bits of `shifted` are n; those of the shifter leave the word */
    memcpy(&p, &bits, sizeof p);
    return p;
}

static inline double sampling_lane_sum(sampling_d8 sums) {
    double total = 0.0;
    for (int lane = 0; lane < SAMPLING_LANES; ++lane) total += sums[lane];
    return total;
}

static inline double sampling_block_sum(const float *weights) {
    sampling_d8 sums = (sampling_d8)0.0;
    for (int i = 0; i < SAMPLING_BLOCK; i += SAMPLING_LANES)
        sums += __builtin_convertvector(sampling_load(weights + i), sampling_d8);
    return sampling_lane_sum(sums);
}

/* Weights exp((row - max) / temperature) on the grid of 2^-32; `max` is finite and its own weight is exactly 1.
 * Returns their sum. `weights` may be NULL. Weights below half the grid are 0. */
static inline double sampling_weights(const float *row, int64_t padded, float max, float temperature, float *weights) {
#pragma clang fp contract(off)
    const double grid = 0x1p20; /* adding it rounds a number in [0, 1] to a multiple of 2^-32 */
    sampling_d8 sums = (sampling_d8)0.0;
    for (int64_t i = 0; i < padded; i += SAMPLING_LANES) {
        const sampling_f8 x = (sampling_load(row + i) - max) / temperature;
        const sampling_f8 value = sampling_exp(__builtin_elementwise_max(x, (sampling_f8)-24.0f));
        const sampling_d8 rounded = (__builtin_convertvector(value, sampling_d8) + grid) - grid;
        sums += rounded;
        if (weights) {
            const sampling_f8 weight = __builtin_convertvector(rounded, sampling_f8);
            memcpy(weights + i, &weight, sizeof weight);
        }
    }
    return sampling_lane_sum(sums);
}

#endif
