/* Arithmetic of sampling over one padded row.
 *
 * Two things make every result here the same on any machine, at any vector width and with any number of threads:
 * products and sums are never contracted, and softmax weights are rounded to multiples of 2^-32, so that sums of up to
 * 2^20 of them are exact in double and have no order. Compile without -ffast-math. */
#ifndef INFLIGHT_SAMPLING_MATH_H
#define INFLIGHT_SAMPLING_MATH_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SAMPLING_LANES 16
#define SAMPLING_BLOCK 64

/* Rows in scratch are padded with -INFINITY to whole blocks. */
#define SAMPLING_BLOCKS(vocab) (((vocab) + SAMPLING_BLOCK - 1) / SAMPLING_BLOCK)
#define SAMPLING_PADDED(vocab) ((int64_t)SAMPLING_BLOCKS(vocab) * SAMPLING_BLOCK)

typedef float sampling_floats __attribute__((ext_vector_type(SAMPLING_LANES), aligned(4)));
typedef int32_t sampling_ints __attribute__((ext_vector_type(SAMPLING_LANES), aligned(4)));
typedef double sampling_doubles __attribute__((ext_vector_type(SAMPLING_LANES), aligned(8)));

static inline sampling_floats sampling_load(const float *source) {
    sampling_floats value;
    memcpy(&value, source, sizeof value);
    return value;
}

/* NaN counts as -INFINITY, +INFINITY as the largest float, and -0 as 0 (so that equal values have equal bits). */
static inline float sampling_sane(float value) { return (value == value ? fminf(value, FLT_MAX) : -INFINITY) + 0.0f; }

static inline float sampling_greatest_lane(sampling_floats values) {
    const __auto_type eight = __builtin_elementwise_max(values.lo, values.hi);
    const __auto_type four = __builtin_elementwise_max(eight.lo, eight.hi);
    const __auto_type two = __builtin_elementwise_max(four.lo, four.hi);
    return fmaxf(two.lo, two.hi);
}

static inline float sampling_block_max(const float *block) {
    sampling_floats best = (sampling_floats)(-INFINITY);
    for (int i = 0; i < SAMPLING_BLOCK; i += SAMPLING_LANES)
        best = __builtin_elementwise_max(best, sampling_load(block + i));
    return sampling_greatest_lane(best);
}

/* `row` gets the sane logits, padded; `maxima` the greatest of each block. */
static inline void sampling_copy_sane(const float *logits, int vocab, float *row, float *maxima) {
    int start = 0;
    for (; start + SAMPLING_BLOCK <= vocab; start += SAMPLING_BLOCK) {
        sampling_floats best = (sampling_floats)(-INFINITY);
        for (int i = start; i < start + SAMPLING_BLOCK; i += SAMPLING_LANES) {
            const sampling_floats given = sampling_load(logits + i);
            const sampling_floats number = __builtin_elementwise_max(given, (sampling_floats)(-INFINITY));
            const sampling_floats value = __builtin_elementwise_min(number, (sampling_floats)FLT_MAX) + 0.0f;
            memcpy(row + i, &value, sizeof value);
            best = __builtin_elementwise_max(best, value);
        }
        maxima[start / SAMPLING_BLOCK] = sampling_greatest_lane(best);
    }
    if (start == vocab) return;
    for (int i = start; i < vocab; ++i) row[i] = sampling_sane(logits[i]);
    for (int i = vocab; i < start + SAMPLING_BLOCK; ++i) row[i] = -INFINITY;
    maxima[start / SAMPLING_BLOCK] = sampling_block_max(row + start);
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

/* A block is computed as so many vectors side by side: the steps of exp wait for each other, vectors do not. */
#define SAMPLING_VECTORS (SAMPLING_BLOCK / SAMPLING_LANES)
#define SAMPLING_EACH _Pragma("clang loop unroll(full)") for (int v = 0; v < SAMPLING_VECTORS; ++v)

/* exp for x in [-24, 0] to about one unit in the last place: x = n ln 2 + r, the Taylor polynomial of degree 7 in r. */
static inline void sampling_exp(sampling_floats x[SAMPLING_VECTORS]) {
#pragma clang fp contract(off)
    static const float taylor[] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
    const sampling_floats shifter = (sampling_floats)12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    sampling_floats shifted[SAMPLING_VECTORS], p[SAMPLING_VECTORS];
    SAMPLING_EACH shifted[v] = x[v] * 1.44269504f + shifter;
    SAMPLING_EACH x[v] = x[v] - (shifted[v] - shifter) * 0.693359375f; /* ln 2 in two parts, the first exact */
    SAMPLING_EACH x[v] = x[v] - (shifted[v] - shifter) * -2.12194440e-4f;
    SAMPLING_EACH p[v] = (sampling_floats)(1.0f / 5040.0f);
    _Pragma("clang loop unroll(full)") for (int i = 0; i < 7; ++i) SAMPLING_EACH p[v] = p[v] * x[v] + taylor[i];
    SAMPLING_EACH {
        sampling_ints bits, exponent;
        memcpy(&bits, &p[v], sizeof bits);
        memcpy(&exponent, &shifted[v], sizeof exponent);
        bits += exponent << 23; /* the low bits of `shifted` are n; those of the shifter leave the word */
        memcpy(&x[v], &bits, sizeof bits);
    }
}

static inline double sampling_lane_sum(sampling_doubles sums) {
    double total = 0.0;
    for (int lane = 0; lane < SAMPLING_LANES; ++lane) total += sums[lane];
    return total;
}

static inline double sampling_block_sum(const float *weights) {
    sampling_doubles sums = (sampling_doubles)0.0;
    for (int i = 0; i < SAMPLING_BLOCK; i += SAMPLING_LANES)
        sums += __builtin_convertvector(sampling_load(weights + i), sampling_doubles);
    return sampling_lane_sum(sums);
}

/* Weights exp((row - max) / temperature) on the grid of 2^-32; `max` is finite and its own weight is exactly 1.
 * Returns their sum. `weights` may be NULL. Weights below half the grid are 0. */
static inline double sampling_weights(const float *row, int64_t padded, float max, float temperature, float *weights) {
#pragma clang fp contract(off)
    const double grid = 0x1p20; /* adding it rounds a number in [0, 1] to a multiple of 2^-32 */
    sampling_doubles sums = (sampling_doubles)0.0;
    for (int64_t start = 0; start < padded; start += SAMPLING_BLOCK) {
        sampling_floats x[SAMPLING_VECTORS];
        SAMPLING_EACH x[v] = (sampling_load(row + start + v * SAMPLING_LANES) - max) / temperature;
        SAMPLING_EACH x[v] = __builtin_elementwise_max(x[v], (sampling_floats)-24.0f);
        sampling_exp(x);
        SAMPLING_EACH {
            const sampling_doubles rounded = (__builtin_convertvector(x[v], sampling_doubles) + grid) - grid;
            sums += rounded;
            x[v] = __builtin_convertvector(rounded, sampling_floats);
        }
        if (weights) SAMPLING_EACH memcpy(weights + start + v * SAMPLING_LANES, &x[v], sizeof x[v]);
    }
    return sampling_lane_sum(sums);
}

#endif
