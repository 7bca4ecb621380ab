/* Products of two neighbouring bfloat16 of a row with those of 16 columns, on top of float32 sums.
 *
 * VDPBF16PS and BFDOT each sum a pair in their own way; elsewhere a pair is two fused multiply-adds, the first of the
 * pair first. Whatever the way, it is the same for every product of a variant, so its results do not depend on the
 * shape of a tile. */
#ifndef INFLIGHT_PAIRS_H
#define INFLIGHT_PAIRS_H

#include "vec.h"

#if defined(__ARM_FEATURE_BF16)
#include <arm_neon.h>
#endif

INLINE uint32_t load_pair(const void *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* With 16 registers the accumulators of a tile leave room for a few more values: loads stay where they are written. */
INLINE void keep_order(void) {
#if defined(__x86_64__) && !defined(__AVX512F__)
    __asm__ volatile("" : : : "memory");
#endif
}

#if defined(__AVX512BF16__)

typedef __bf16 bf16x32 __attribute__((vector_size(64)));
typedef bf16x32 bf16_pairs, bf16_pair;
INLINE bf16_pair splat_pair(uint32_t pair) { return (bf16x32)((u32x16){0} + pair); }
INLINE f32x16 add_products(f32x16 sum, bf16_pair a, bf16_pairs b) { return __builtin_ia32_dpbf16ps_512(sum, a, b); }

#elif defined(__ARM_FEATURE_BF16)

typedef u32x16 bf16_pairs;
typedef bfloat16x8_t bf16_pair;
INLINE bf16_pair splat_pair(uint32_t pair) { return vreinterpretq_bf16_u32(vdupq_n_u32(pair)); }
INLINE f32x16 add_products(f32x16 sum, bf16_pair a, bf16_pairs b) {
    float32x4_t s[4];
    bfloat16x8_t columns[4];
    memcpy(s, &sum, sizeof s);
    memcpy(columns, &b, sizeof columns);
    UNROLL for (int i = 0; i < 4; i++) s[i] = vbfdotq_f32(s[i], columns[i], a);
    memcpy(&sum, s, sizeof sum);
    return sum;
}

#else

#define PAIRS_IN_HALVES
typedef u32x16 bf16_pairs;
/* The first or the second of every pair. */
INLINE f32x16 pair_half(bf16_pairs x, int second) { return (f32x16)(second ? x & 0xffff0000u : x << 16); }

/* The pair at p in every lane. With AVX2 loaded as a vector: by way of a scalar register it takes twice as long. */
INLINE bf16_pairs splat_pair_at(const void *p) {
#if defined(__AVX2__)
    typedef uint32_t u32x8 __attribute__((vector_size(32)));
    u32x8 half;
    __asm__("vpbroadcastd %1, %0" : "=x"(half) : "m"(*(const uint32_t *)p));
    return __builtin_shufflevector(half, half, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    return (u32x16){0} + load_pair(p);
#endif
}

#endif

INLINE bf16_pairs load_pairs(const void *p) {
    bf16_pairs x;
    memcpy(&x, p, sizeof x);
    return x;
}

#endif
