/* 8-bit floats (E4M3, Micikevicius et al., 2022): sign, four bits of exponent (bias 7), three of mantissa.
 *
 * Every value is exact in bfloat16, and so is what is made of it here, subnormals included, whatever the processor does
 * with denormals. The two bytes of NaN are read as 480: no panel holds one (packing/float8_panels.py), and no cache. */
#ifndef INFLIGHT_E4M3_H
#define INFLIGHT_E4M3_H

#include "pairs.h"

#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

#define GREATEST_E4M3 448.0f

/* The first or the second byte of 16 pairs at p, as float32. Shifted into place they are float16 of the values / 2^8. */
INLINE f32x16 e4m3_half(const void *p, int second) {
    typedef int16_t i16x16 __attribute__((vector_size(32)));
    u16x16 words;
    memcpy(&words, p, sizeof words);
    const i16x16 upper = (i16x16)(second ? words : words << 8);
    const f16x16 half = (f16x16)((u16x16)(upper >> 1) & 0xbf80);
    return __builtin_convertvector(half, f32x16) * splat(256.0f);
}

/* 16 pairs of bytes at p as pairs of bfloat16. */
INLINE u32x16 e4m3_pairs(const void *p) {
#if defined(__AVX512BW__)
    const __m512i numbers = _mm512_cvtepi8_epi16(_mm256_loadu_si256(p));
    const __m512i shifted = _mm512_and_si512(_mm512_slli_epi16(numbers, 4), _mm512_set1_epi16(0x07f0));
    /* Subnormals are multiples of 2^-9: 0 to 7 of them. */
    static const uint16_t multiples[32] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
    const __mmask32 subnormal = _mm512_testn_epi16_mask(numbers, _mm512_set1_epi16(0x0078));
    const __m512i magnitude = _mm512_mask_permutexvar_epi16(_mm512_add_epi16(shifted, _mm512_set1_epi16(120 << 7)),
                                                            subnormal, numbers, _mm512_loadu_si512(multiples));
    const __m512i sign = _mm512_set1_epi16((short)0x8000);
    return (u32x16)_mm512_ternarylogic_epi32(magnitude, numbers, sign, 0xf8); /* magnitude | (numbers & sign) */
#else
    return (u32x16)e4m3_half(p, 0) >> 16 | ((u32x16)e4m3_half(p, 1) & 0xffff0000u);
#endif
}

/* x rounded to E4M3, to nearest, ties to even, and cut to its range; a NaN stays one. */
INLINE f32x16 round_to_e4m3(f32x16 x) {
    const f32x16 greatest = splat(GREATEST_E4M3), coarse = splat(0x1.8p14f); /* beyond it float32 counts in 2^-9 */
    const f32x16 cut = select16((i32x16)(x > greatest), greatest, select16((i32x16)(x < -greatest), -greatest, x));
    const u32x16 bits = (u32x16)cut;
    const f32x16 normal = (f32x16)((bits + 0x7ffff + ((bits >> 20) & 1)) & 0xfff00000u);
    const f32x16 subnormal = (cut + coarse) - coarse;
    const i32x16 small = (i32x16)((bits & 0x7fffffffu) < 0x3c800000u); /* magnitudes below 2^-6 */
    return select16((i32x16)(x != x), x, select16(small, subnormal, normal));
}

/* 16 numbers of E4M3 to their bytes; a NaN to that of the greatest. */
INLINE void store_e4m3(uint8_t *p, f32x16 x) {
    typedef uint8_t u8x16 __attribute__((vector_size(16)));
    const f32x16 numbers = select16((i32x16)(x != x), splat(GREATEST_E4M3), x);
    const u16x16 half = (u16x16)__builtin_convertvector(numbers * splat(0x1p-8f), f16x16);
    const u8x16 bytes = __builtin_convertvector((half >> 8 & 0x80) | (half >> 7 & 0x7f), u8x16);
    memcpy(p, &bytes, sizeof bytes);
}

#endif
