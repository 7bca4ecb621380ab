/* Products with weights that are codes of 4 bits: each stands for one of 16 numbers (NF4, E2M1, IQ4).
 *
 * Panels are those of 4-bit integers (qshape.h), with codes 0 .. 15 in place of weight + 8. A number is a multiple of
 * the codebook's step, of one or two signed bytes, so that a product is one of integers: a byte shuffle looks up 64
 * codes at a time, and the same dot products take what it finds (qdot.h). Tables of one byte are exact; of two, as the
 * bytes of a row of 16 bits, numbers are within 2^-16 of the greatest (packing says which: targets/cpu/codebook.py),
 * and the product of both lower bytes is left out, which is at most 2^-16 of the greatest product, too.
 *
 * With one row of 16 bits, 64 bytes of a panel (128 weights) take 3 instructions to part the codes, 1 with VBMI, and
 * for each byte of a number 2 shuffles and, with VNNI, 2 dot products for each byte of the row that it meets: 9 for
 * MXFP4 and IQ4, 13 for NF4, 7 and 11 with VBMI, beside the load and a quarter of the broadcasts of x. Without VNNI a
 * dot product is 3 instructions of a register where numbers have 7 bits (MXFP4), 4 and 2 more for both rows
 * elsewhere. */
#ifndef INFLIGHT_CODEBOOK_H
#define INFLIGHT_CODEBOOK_H

#include "qtile.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* Vectors of integer sums that registers hold beside tables and codes. */
#if defined(__AVX512F__)
#define MOST_CODEBOOK_SUMS 24
#else
#define MOST_CODEBOOK_SUMS 6
#endif

typedef uint8_t u8x16 __attribute__((vector_size(16)));

/* The bytes of a digit by code, as dot products take weights. */
INLINE u8x16 table_of(codebook c, int digit) {
    u8x16 table;
    memcpy(&table, c.values + 16 * digit, sizeof table);
    return table + (uint8_t)weight_offset(c.bits);
}

/* The codes in one half of 64 bytes that have two each: 64 codes, in the lower halves of bytes. A shuffle of VBMI looks
 * at six bits of a byte, in a table that is there four times at four of them: the upper halves may hold anything. */
INLINE u32x16 codes_of(u32x16 words, int upper) {
#if defined(__AVX512VBMI__)
    return upper ? words >> 4 : words;
#else
    return upper ? upper_halves(words) : lower_halves(words);
#endif
}

/* What the table has for each of 64 codes of codes_of. */
INLINE u32x16 look_up(u8x16 table, u32x16 codes) {
#if defined(__AVX512VBMI__)
    return (u32x16)_mm512_permutexvar_epi8((__m512i)codes, _mm512_broadcast_i32x4((__m128i)table));
#elif defined(__AVX512BW__)
    return (u32x16)_mm512_shuffle_epi8(_mm512_broadcast_i32x4((__m128i)table), (__m512i)codes);
#elif defined(__AVX2__)
    const i8x64 bytes = (i8x64)codes;
    typedef int8_t i8x32 __attribute__((vector_size(32)));
    const i8x32 twice = (i8x32)__builtin_shufflevector(table, table, BYTE_NUMBERS(0), BYTE_NUMBERS(0));
    return (u32x16)JOINED((i32x8)__builtin_ia32_pshufb256(twice, LOW_BYTES(bytes)),
                          (i32x8)__builtin_ia32_pshufb256(twice, HIGH_BYTES(bytes)));
#elif defined(__ARM_NEON)
    u8x16 quarters[4];
    memcpy(quarters, &codes, sizeof quarters);
    UNROLL for (int i = 0; i < 4; i++) quarters[i] = (u8x16)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)quarters[i]);
    memcpy(&codes, quarters, sizeof quarters);
    return codes;
#else
    uint8_t bytes[64];
    memcpy(bytes, &codes, sizeof bytes);
    for (int i = 0; i < 64; i++) bytes[i] = table[bytes[i]];
    memcpy(&codes, bytes, sizeof bytes);
    return codes;
#endif
}

typedef i32x16 digit_totals[2][TILE_ROWS][TILE_VECTORS];

/* Of the bytes of rows, the upper one first, a digit of a number meets every one, or every second: the lower byte of a
 * number and that of a row are not multiplied. */
INLINE int every_met(quantized_shape q, int digit) { return digit > 0 && q.row.digits == 2 ? 2 : 1; }

/* sums[d] += four values of k of digit first + d, for `digits` of them. */
INLINE void add_looked_up(quantized_shape q, int first, int digits, int rows, int vectors, const int8_t *x,
                          int64_t x_stride, const u32x16 *codes, digit_totals sums) {
    UNROLL for (int d = 0; d < digits; d++) {
        const u8x16 table = table_of(q.codes, first + d);
        const int every = every_met(q, first + d);
        u32x16 columns[TILE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) columns[v] = look_up(table, codes[v]);
        add_quads(q.codes.bits, rows / every, vectors, x, every * x_stride, columns, sums[d]);
    }
}

INLINE void codebook_step(quantized_shape q, int first, int digits, int rows, int vectors, const int8_t *x,
                          int64_t x_stride, const uint8_t *panel, digit_totals sums) {
    u32x16 codes[TILE_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) codes[v] = codes_of(load_words(panel + v * 64), 0);
    add_looked_up(q, first, digits, rows, vectors, x, x_stride, codes, sums);
    __asm__("" : "+r"(panel)); /* as integer_step */
    UNROLL for (int v = 0; v < vectors; v++) codes[v] = codes_of(load_words(panel + v * 64), 1);
    add_looked_up(q, first, digits, rows, vectors, x + 4, x_stride, codes, sums);
}

/* codebook_step of a stream (qsteps.h), whose lines the first of all `vectors` ask for. */
INLINE void codebook_stream_step(quantized_shape q, int first, int digits, int rows, int vectors, const int8_t *x,
                                 int64_t x_stride, const uint8_t *panel, look_ahead *ahead, digit_totals sums) {
    const int lines = TILE_VECTORS / vectors;
    UNROLL for (int v = 0; v < vectors; v++) {
        UNROLL for (int i = 0; i < lines; i++) ask_for_line(ahead, v * lines + i);
        u32x16 words = load_words(panel + v * 64);
        READ_HERE(words);
        UNROLL for (int half = 0; half < 2; half++) {
            const u32x16 codes = codes_of(words, half);
            UNROLL for (int d = 0; d < digits; d++) {
                const u32x16 weights = look_up(table_of(q.codes, first + d), codes);
                const int every = every_met(q, first + d);
                UNROLL for (int r = 0; r < rows / every; r++)
                    sums[d][r][v] = add_dots(q.codes.bits, sums[d][r][v], weights,
                                             splat_quad(x + every * r * x_stride + 4 * half));
            }
        }
    }
    ahead->next += STEP_BYTES;
}

/* sums = digits of group g times the looked up ones of `vectors` columns. */
INLINE void codebook_sums(quantized_shape q, int first, int digits, int rows, int vectors, int64_t g, const int8_t *x,
                          const uint8_t *panel, look_ahead *ahead, digit_totals sums) {
    const int64_t stride = digit_stride(q.row.width), start = g * q.row.group, values = step_values(q);
    const int64_t steps = ceil_div(min_int(q.row.group, q.row.width - start), values);
    UNROLL for (int d = 0; d < digits; d++) {
        const int every = every_met(q, first + d);
        UNROLL for (int r = 0; r < rows / every; r++) {
            const int32_t repair = -weight_offset(q.codes.bits) * digit_sums(x + r * every * stride, q.row.width)[g];
            UNROLL for (int v = 0; v < vectors; v++) sums[d][r][v] = splat_int(repair);
        }
    }
    int64_t s = 0;
    if (ahead && is_stream(ahead)) {
        for (; s < steps; s++)
            codebook_stream_step(q, first, digits, rows, vectors, x + start + s * values, stride,
                                 panel + s * STEP_BYTES, ahead, sums);
        return;
    }
    const int asking = asking_steps(q.bits, rows, q.row.group / step_values(q));
    for (; s + asking <= steps; s += asking) {
        if (ahead) ask_for_steps(asking, ahead);
        for (int64_t i = s; i < s + asking; i++)
            codebook_step(q, first, digits, rows, vectors, x + start + i * values, stride, panel + i * STEP_BYTES, sums);
    }
    for (; s < steps; s++)
        codebook_step(q, first, digits, rows, vectors, x + start + s * values, stride, panel + s * STEP_BYTES, sums);
}

/* totals[token] += the sums of one digit, scaled, in order from the higher digit to the lower. */
INLINE void add_digit(quantized_shape q, int digit, int rows, int vectors, const integer_sums sums,
                      const uint8_t *scales, int column, tile_sums totals) {
    const float step = q.codes.step * (digit + 1 < q.codes.digits ? 256.0f : 1.0f);
    const int every = every_met(q, digit);
    UNROLL for (int v = 0; v < vectors; v++) {
        const f32x16 scale = load16(q.scale_type, scales, (column + v) * LANES) * splat(step);
        UNROLL for (int r = 0; r < rows; r += q.row.digits) {
            f32x16 *total = &totals[r / q.row.digits][column + v];
            f32x16 value = __builtin_convertvector(sums[r / every][v], f32x16);
            if (q.row.digits == 2) {
                const f32x16 lower = every == 2 ? splat(0.0f) : __builtin_convertvector(sums[r + 1][v], f32x16);
                value = fma16(value, splat(256.0f), lower);
            }
            *total = fma16(value, scale, *total);
        }
    }
}

/* As many columns and digits at a time as registers hold sums: the group's steps stay in the first-level cache, and a
 * total is the same chain however they are divided. */
INLINE void codebook_group(quantized_shape q, int rows, int vectors, int64_t g, const int8_t *x, const uint8_t *scales,
                           const uint8_t *panel, look_ahead *ahead, tile_sums totals) {
    const int digits = q.codes.digits, both = rows * digits <= MOST_CODEBOOK_SUMS ? digits : 1;
    int width = vectors;
    UNROLL for (int i = 0; i < 2; i++) width = rows * both * width > MOST_CODEBOOK_SUMS && width > 1 ? width / 2 : width;
    UNROLL for (int v = 0; v < vectors; v += width) {
        UNROLL for (int first = 0; first < digits; first += both) {
            digit_totals sums;
            codebook_sums(q, first, both, rows, width, g, x, panel + v * 64, v + first ? NULL : ahead, sums);
            UNROLL for (int d = 0; d < both; d++)
                add_digit(q, first + d, rows, width, (const i32x16(*)[TILE_VECTORS])sums[d], scales, v, totals);
        }
    }
}

#endif
