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

#if defined(__AVX512VBMI__)
/* The bytes of bfloat16 of the 128 magnitudes: subnormals, then eight of each exponent. */
#define EIGHT_TIMES(x) x, x, x, x, x, x, x, x
#define EIGHT_MANTISSAS(x) x, x | 16, x | 32, x | 48, x | 64, x | 80, x | 96, x | 112
static const uint8_t e4m3_upper[128] = {
    0x00, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, EIGHT_TIMES(60), EIGHT_TIMES(61), EIGHT_TIMES(61), EIGHT_TIMES(62),
    EIGHT_TIMES(62), EIGHT_TIMES(63), EIGHT_TIMES(63), EIGHT_TIMES(64), EIGHT_TIMES(64), EIGHT_TIMES(65),
    EIGHT_TIMES(65), EIGHT_TIMES(66), EIGHT_TIMES(66), EIGHT_TIMES(67), EIGHT_TIMES(67)};
static const uint8_t e4m3_lower[128] = {
    0x00, 0x00, 0x80, 0xc0, 0x00, 0x20, 0x40, 0x60, EIGHT_MANTISSAS(128), EIGHT_MANTISSAS(0), EIGHT_MANTISSAS(128),
    EIGHT_MANTISSAS(0), EIGHT_MANTISSAS(128), EIGHT_MANTISSAS(0), EIGHT_MANTISSAS(128), EIGHT_MANTISSAS(0),
    EIGHT_MANTISSAS(128), EIGHT_MANTISSAS(0), EIGHT_MANTISSAS(128), EIGHT_MANTISSAS(0), EIGHT_MANTISSAS(128),
    EIGHT_MANTISSAS(0), EIGHT_MANTISSAS(128)};

/* 32 pairs of bytes at p as pairs of bfloat16, looked up, by lanes of 128 bits: of each eight pairs of the input the first
 * four are in columns[0] and the last four in columns[1]. */
INLINE void e4m3_lanes(const void *p, u32x16 columns[2]) {
    const __m512i bytes = _mm512_loadu_si512(p);
    const __m512i lower = _mm512_permutex2var_epi8(_mm512_loadu_si512(e4m3_lower), bytes,
                                                   _mm512_loadu_si512(e4m3_lower + 64));
    __m512i upper = _mm512_permutex2var_epi8(_mm512_loadu_si512(e4m3_upper), bytes,
                                             _mm512_loadu_si512(e4m3_upper + 64));
    upper = _mm512_ternarylogic_epi32(upper, bytes, _mm512_set1_epi8((char)0x80), 0xf8); /* upper | (bytes & sign) */
    columns[0] = (u32x16)_mm512_unpacklo_epi8(lower, upper);
    columns[1] = (u32x16)_mm512_unpackhi_epi8(lower, upper);
}

/* Sums of 32 columns from their order to that of e4m3_lanes, and back. */
INLINE void to_lanes(f32x16 sums[2]) {
    const f32x16 a = sums[0], b = sums[1];
    sums[0] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    sums[1] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
INLINE void from_lanes(f32x16 sums[2]) {
    const f32x16 a = sums[0], b = sums[1];
    sums[0] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    sums[1] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
}
#else
/* 32 pairs of bytes at p as pairs of bfloat16, in their order. */
INLINE void e4m3_lanes(const void *p, u32x16 columns[2]) {
    UNROLL for (int i = 0; i < 2; i++) columns[i] = e4m3_pairs((const unsigned char *)p + 32 * i);
}
INLINE void to_lanes(f32x16 sums[2]) { (void)sums; }
INLINE void from_lanes(f32x16 sums[2]) { (void)sums; }
#endif

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
