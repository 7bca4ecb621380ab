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

/* What the lower and the upper halves of bytes hold, each in a byte. */
INLINE u32x16 lower_halves(u32x16 words) { return words & 0x0f0f0f0fu; }
INLINE u32x16 upper_halves(u32x16 words) {
#if defined(__GFNI__) && defined(__AVX512F__)
    /* Bytes as vectors of bits, times the matrix that moves bits 4 to 7 to 0 to 3: one instruction. */
    return (u32x16)_mm512_gf2p8affine_epi64_epi8((__m512i)words, _mm512_set1_epi64(0x1020408000000000), 0);
#else
    return (words >> 4) & 0x0f0f0f0fu;
#endif
}

INLINE u32x16 splat_word(const void *p) { return (u32x16){0} + load_pair(p); }

#if defined(__AVX512VNNI__)

typedef u32x16 byte_quads; /* the same four activations in every lane */
INLINE byte_quads splat_quad(const int8_t *x) { return splat_word(x); }
INLINE i32x16 add_dots(int bits, i32x16 sum, u32x16 weights, byte_quads x) {
    (void)bits;
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)x);
}

#elif defined(__AVX2__)

typedef u32x16 byte_quads; /* the same four activations in every lane */
INLINE byte_quads splat_quad(const int8_t *x) { return splat_word(x); }

#if defined(__AVX512BW__)
INLINE i32x16 add_pairs(i16x32 a, i16x32 b) { return (i32x16)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
INLINE i16x32 add_byte_pairs(u32x16 a, u32x16 b) { return (i16x32)_mm512_maddubs_epi16((__m512i)a, (__m512i)b); }
#else
/* Macros, shuffles and builtins, where functions of halves would do: the compiler gives every argument of every call
 * memory before it inlines, and the passes that take it away need more than linear time. */
#define LOW_HALF(x) __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define HIGH_HALF(x) __builtin_shufflevector(x, x, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31)
#define LOW_BYTES(x) __builtin_shufflevector(x, x, BYTE_NUMBERS(0), BYTE_NUMBERS(16))
#define HIGH_BYTES(x) __builtin_shufflevector(x, x, BYTE_NUMBERS(32), BYTE_NUMBERS(48))
#define BYTE_NUMBERS(n) \
    n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8, n + 9, n + 10, n + 11, n + 12, n + 13, n + 14, n + 15
#define JOINED(low, high) __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef int8_t i8x64 __attribute__((vector_size(64)));
INLINE i32x16 add_pairs(i16x32 a, i16x32 b) {
    return JOINED((i32x8)__builtin_ia32_pmaddwd256(LOW_HALF(a), LOW_HALF(b)),
                  (i32x8)__builtin_ia32_pmaddwd256(HIGH_HALF(a), HIGH_HALF(b)));
}
INLINE i16x32 add_byte_pairs(u32x16 a, u32x16 b) {
    return (i16x32)JOINED((i32x8)__builtin_ia32_pmaddubsw256(LOW_BYTES((i8x64)a), LOW_BYTES((i8x64)b)),
                          (i32x8)__builtin_ia32_pmaddubsw256(HIGH_BYTES((i8x64)a), HIGH_BYTES((i8x64)b)));
}
#endif

/* VPMADDUBSW saturates at 16 bits: two products of weights of 7 bits (at most 2 * 127 * 128) cannot, of 8 they can. */
INLINE i32x16 add_dots(int bits, i32x16 sum, u32x16 weights, byte_quads x) {
    if (bits < 8) return sum + add_pairs(add_byte_pairs(weights, x), (i16x32)((u32x16){0} + 0x00010001u));
    const i16x32 even = (i16x32)(x << 8) >> 8, odd = (i16x32)x >> 8; /* bytes 0 and 2, bytes 1 and 3 */
    const i32x16 sum_of_even = add_pairs((i16x32)(weights & 0x00ff00ffu), even);
    return sum + sum_of_even + add_pairs((i16x32)((weights >> 8) & 0x00ff00ffu), odd);
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
