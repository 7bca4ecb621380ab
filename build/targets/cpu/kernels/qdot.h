/* Dot products of bytes: every 32-bit lane of a sum takes four weights times four activations.
 *
 * Weights are unsigned (the value plus weight_offset), activations signed, as VPDPBUSD and USDOT have it. Sums are
 * exact (nothing saturates, and a final sum fits in 32 bits), so every machine gives the same integers. */
#ifndef INFLIGHT_QDOT_H
#define INFLIGHT_QDOT_H

#include "tile.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));

INLINE u32x16 load_words(const void *p) {
    u32x16 x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE void store_words(void *p, u32x16 x) { memcpy(p, &x, sizeof x); }

INLINE u32x16 splat_word(const void *p) { return (u32x16){0} + load_pair(p); }

#if defined(__AVX512VNNI__)

typedef u32x16 byte_quads; /* the same four activations in every lane */
INLINE byte_quads splat_quad(const int8_t *x) { return splat_word(x); }
INLINE i32x16 add_dots(int bits, i32x16 sum, u32x16 weights, byte_quads x) {
    (void)bits;
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)x);
}

#elif defined(__AVX2__)

typedef struct {
    u32x16 bytes;
    i16x32 even, odd; /* bytes 0 and 2, bytes 1 and 3 */
} byte_quads;

INLINE byte_quads splat_quad(const int8_t *x) {
    u32x16 bytes = splat_word(x);
    return (byte_quads){bytes, (i16x32)(bytes << 8) >> 8, (i16x32)bytes >> 8};
}

#if defined(__AVX512BW__)
INLINE i32x16 add_pairs(i16x32 a, i16x32 b) { return (i32x16)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
INLINE i16x32 add_byte_pairs(u32x16 a, u32x16 b) { return (i16x32)_mm512_maddubs_epi16((__m512i)a, (__m512i)b); }
#else
typedef struct {
    __m256i low, high;
} vector_halves;
INLINE vector_halves halves(u32x16 x) {
    vector_halves h;
    memcpy(&h, &x, sizeof h);
    return h;
}
INLINE i32x16 join(__m256i low, __m256i high) {
    vector_halves h = {low, high};
    i32x16 x;
    memcpy(&x, &h, sizeof x);
    return x;
}
INLINE i32x16 add_pairs(i16x32 a, i16x32 b) {
    vector_halves x = halves((u32x16)a), y = halves((u32x16)b);
    return join(_mm256_madd_epi16(x.low, y.low), _mm256_madd_epi16(x.high, y.high));
}
INLINE i16x32 add_byte_pairs(u32x16 a, u32x16 b) {
    vector_halves x = halves(a), y = halves(b);
    return (i16x32)join(_mm256_maddubs_epi16(x.low, y.low), _mm256_maddubs_epi16(x.high, y.high));
}
#endif

/* VPMADDUBSW saturates at 16 bits: two products of weights of 7 bits (at most 2 * 127 * 128) cannot, of 8 they can. */
INLINE i32x16 add_dots(int bits, i32x16 sum, u32x16 weights, byte_quads x) {
    if (bits < 8) return sum + add_pairs(add_byte_pairs(weights, x.bytes), (i16x32)((u32x16){0} + 0x00010001u));
    i32x16 even = add_pairs((i16x32)(weights & 0x00ff00ffu), x.even);
    return sum + even + add_pairs((i16x32)((weights >> 8) & 0x00ff00ffu), x.odd);
}

#elif defined(__ARM_FEATURE_DOTPROD)

typedef int8x16_t byte_quads;
INLINE byte_quads splat_quad(const int8_t *x) { return vreinterpretq_s8_u32(vdupq_n_u32(load_pair(x))); }
INLINE i32x16 add_dots(int bits, i32x16 sum, u32x16 weights, byte_quads x) {
    int32x4_t s[4];
    uint8x16_t w[4];
    (void)bits;
    memcpy(s, &sum, sizeof s);
    memcpy(w, &weights, sizeof w);
    UNROLL for (int i = 0; i < 4; i++) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        s[i] = vusdotq_s32(s[i], w[i], x);
#else
        s[i] = vdotq_s32(s[i], vreinterpretq_s8_u8(w[i]), x);
#endif
    }
    memcpy(&sum, s, sizeof s);
    return sum;
}

#else

typedef u32x16 byte_quads;
INLINE byte_quads splat_quad(const int8_t *x) { return splat_word(x); }
INLINE i32x16 add_dots(int bits, i32x16 sum, u32x16 weights, byte_quads x) {
    (void)bits;
    UNROLL for (int shift = 0; shift < 32; shift += 8)
        sum += (i32x16)((weights >> shift) & 255) * ((i32x16)(x << (24 - shift)) >> 24);
    return sum;
}

#endif

/* What is added to a weight in the packed panels, and must be taken off again: offset * sum of the activations. Where
 * there are signed dot products only, the upper bit of a byte is turned back and the offset is gone. */
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
INLINE int32_t weight_offset(int bits) { return bits == 8 ? 0 : 1 << (bits - 1); }
INLINE u32x16 byte_weights(const void *p) { return load_words(p) ^ 0x80808080u; }
#else
INLINE int32_t weight_offset(int bits) { return 1 << (bits - 1); }
INLINE u32x16 byte_weights(const void *p) { return load_words(p); }
#endif

#endif
