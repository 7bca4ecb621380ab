/* Rows of float32 to rows of integers, on their own or behind a norm.
 *
 * The integers of a row are signed bytes: one digit for 8 bits, two for 16 (the value is 256 * high + low, the high
 * digits come first), three for 8-bit floats (E4M3), which are whole multiples of 2^-9 up to 448. Digits of K values are filled with zeros to a multiple of 64; behind them are their sums, int32,
 * one for each group of k, with room for one per 16 values (build/graph/quantized_rows.py says the same). */
#ifndef INFLIGHT_QUANTIZE_H
#define INFLIGHT_QUANTIZE_H

#include "e4m3.h"
#include "norm.h"

#define SMALLEST_NORMAL 0x1p-126f
#define E4M3_DIGITS 3
#define E4M3_STEPS 512.0f /* in 1 */

typedef struct {
    int digits;           /* signed bytes of a value */
    int64_t width, group; /* values of a row, and how many of them share a sum; group is a multiple of 16, or width */
    float stored;         /* the one scale of all rows, of one digit or of three; 0: each has its own */
} quantized_row;

typedef int8_t i8x16 __attribute__((vector_size(16)));

INLINE int64_t digits_bytes(int64_t width) { return round_up(width, 64); }
INLINE int64_t digit_stride(int64_t width) { return digits_bytes(width) + round_up(4 * ceil_div(width, 16), 64); }
INLINE int32_t *digit_sums(const int8_t *digits, int64_t width) { return (int32_t *)(digits + digits_bytes(width)); }
INLINE int8_t *quantized_at(quantized_row q, const void *y, int64_t row) {
    return (int8_t *)y + row * q.digits * digit_stride(q.width);
}

/* x[i] * inverse * weight[i], 16 at a time, zeros behind the row; without a weight x[i] itself. With an order
 * x[order[i]] takes the place of x[i]. */
typedef struct {
    element type;
    const void *x;
    const float *weight;
    float inverse;
    const int32_t *order; /* NULL: none */
} row_values;

INLINE f32x16 ordered_at(row_values v, int64_t width, int64_t i) {
    f32x16 x = splat(0.0f);
    for (int64_t lane = 0; lane < min_int(LANES, width - i); lane++) x[lane] = load1(v.type, v.x, v.order[i + lane]);
    return x;
}

INLINE f32x16 values_at(row_values v, int64_t width, int64_t i) {
    if (i >= width) return splat(0.0f);
    const int whole = i + LANES <= width;
    f32x16 x = v.order ? ordered_at(v, width, i)
               : whole ? load16(v.type, v.x, i)
                       : load_part(v.type, v.x, i, width - i);
    return v.weight ? x * v.inverse * (whole ? load16(F32, v.weight, i) : load_part(F32, v.weight, i, width - i)) : x;
}

/* The greatest magnitude of the row. Compared as integers, so that a NaN is the greatest of all and is seen. */
INLINE float greatest_magnitude(row_values v, int64_t width) {
    u32x16 greatest = {0};
    for (int64_t i = 0; i < width; i += LANES)
        greatest = __builtin_elementwise_max(greatest, (u32x16)values_at(v, width, i) & 0x7fffffffu);
    uint32_t bits = __builtin_reduce_max(greatest);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounded to nearest, ties to even, for magnitudes below 2^22. */
INLINE i32x16 round_to_int(f32x16 x) {
    const f32x16 magic = splat(12582912.0f); /* 1.5 * 2^23: adding it leaves the integer in the lower bits */
    return (i32x16)(x + magic) - (i32x16)magic;
}

INLINE void store_bytes(int8_t *p, i32x16 x) {
    i8x16 bytes = __builtin_convertvector(x, i8x16);
    memcpy(p, &bytes, sizeof bytes);
}

/* Integers of values. The greatest magnitude times its inverse is at most half a millionth above the greatest level, so
 * nothing rounds beyond it; by a stored scale values are cut to what a byte holds. */
INLINE i32x16 levels_of(quantized_row q, f32x16 values, float inverse) {
    if (q.stored == 0.0f) return round_to_int(values * inverse);
    const f32x16 scaled = values / splat(q.stored), low = splat(-128.0f), high = splat(127.0f);
    if (q.digits == E4M3_DIGITS) return round_to_int(round_to_e4m3(scaled) * splat(E4M3_STEPS));
    return round_to_int(select16((i32x16)(scaled > high), high, select16((i32x16)(scaled < low), low, scaled)));
}

/* Values [start, stop) to the digits of a row at y, and the sums of those to sums[digit]. */
INLINE void quantize_group(quantized_row q, row_values v, float inverse, int64_t start, int64_t stop, int8_t *y,
                           int32_t *sums) {
    i32x16 totals[E4M3_DIGITS] = {{0}};
    for (int64_t i = start; i < stop; i += LANES) {
        i32x16 x = levels_of(q, values_at(v, q.width, i), inverse);
        UNROLL for (int d = q.digits - 1; d >= 0; d--) {
            const i32x16 digit = d ? x << 24 >> 24 : x;
            store_bytes(y + d * digit_stride(q.width) + i, digit);
            totals[d] += digit;
            x = (x - digit) >> 8;
        }
    }
    UNROLL for (int d = 0; d < q.digits; d++) sums[d] = __builtin_reduce_add(totals[d]);
}

/* Of a row whose scale is stored. */
INLINE float stored_row_scale(quantized_row q) {
    return q.digits == E4M3_DIGITS ? q.stored / E4M3_STEPS : q.stored;
}

/* The lines of a row that is about to be written: other cores have read them, and stores that wait for one hold up those
 * behind them. */
INLINE void ask_for_row(const void *y, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += CACHE_LINE) __builtin_prefetch((const int8_t *)y + i, 1, 3);
}

/* A value that is not finite is seen in the row's scale. */
INLINE void quantize_row(quantized_row q, row_values v, int8_t *y, float *y_scale) {
    ask_for_row(y, q.digits * digit_stride(q.width));
    const float greatest = greatest_magnitude(v, q.width);
    float scale = greatest / (q.digits == 1 ? 127.0f : 127.0f * 256.0f + 127.0f);
    *y_scale = scale < SMALLEST_NORMAL ? 0.0f : scale;
    if (q.stored != 0.0f) *y_scale = greatest < __builtin_inff() ? stored_row_scale(q) : __builtin_nanf("");
    const float inverse = scale < SMALLEST_NORMAL ? 0.0f : 1.0f / scale;
    const int64_t groups = ceil_div(q.width, q.group);
    for (int64_t g = 0; g < groups; g++) {
        int32_t sums[E4M3_DIGITS];
        int64_t stop = g + 1 < groups ? (g + 1) * q.group : digits_bytes(q.width);
        quantize_group(q, v, inverse, g * q.group, stop, y, sums);
        UNROLL for (int d = 0; d < q.digits; d++) digit_sums(y + d * digit_stride(q.width), q.width)[g] = sums[d];
    }
}

/* `factors` of the rows' values, and the order in which they are read; NULL: none */
INLINE void quantize_read_rows(pool *p, int thread, element type, quantized_row q, int64_t rows, const void *x,
                               const float *factors, const int32_t *order, void *y, float *y_scale) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++)
        quantize_row(q, (row_values){type, at(type, x, row * q.width), factors, 1.0f, order}, quantized_at(q, y, row),
                     y_scale + row);
}

INLINE void quantize_rows(pool *p, int thread, element type, quantized_row q, int64_t rows, const void *x, void *y,
                          float *y_scale) {
    quantize_read_rows(p, thread, type, q, rows, x, NULL, NULL, y, y_scale);
}

INLINE void rms_norm_quantize(pool *p, int thread, quantized_row q, float epsilon, int64_t rows, const float *x,
                              const float *weight, void *y, float *y_scale) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++) {
        const float *values = x + row * q.width;
        quantize_row(q, (row_values){F32, values, weight, inverse_rms(values, q.width, epsilon)},
                     quantized_at(q, y, row), y_scale + row);
    }
}

#endif
