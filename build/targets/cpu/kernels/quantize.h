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

/* 64 values, whose digits are one line, and one store. */
#define LINE_VECTORS 4
#define LINE_VALUES (LINE_VECTORS * LANES)
typedef i32x16 line_values[LINE_VECTORS];
typedef int8_t i8x32 __attribute__((vector_size(32)));
typedef int8_t bytes64 __attribute__((vector_size(64)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

#define LANES_FROM(n) n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7
#define HALF_FROM(n) LANES_FROM(n), LANES_FROM(n + 8)
INLINE void store_line(int8_t *p, const line_values x) {
    i8x16 part[LINE_VECTORS];
    UNROLL for (int v = 0; v < LINE_VECTORS; v++) part[v] = __builtin_convertvector(x[v], i8x16);
    const i8x32 low = __builtin_shufflevector(part[0], part[1], HALF_FROM(0), HALF_FROM(16));
    const i8x32 high = __builtin_shufflevector(part[2], part[3], HALF_FROM(0), HALF_FROM(16));
    const bytes64 bytes = __builtin_shufflevector(low, high, HALF_FROM(0), HALF_FROM(16), HALF_FROM(32), HALF_FROM(48));
    memcpy(p, &bytes, sizeof bytes);
}

/* The sums of the vectors of a line: of two vectors in pairs of lanes, of four in fours, then of the fours. */
#define PAIR_LANES(n) n, n + 16, n + 1, n + 17
#define FOUR_LANES(n) n, n + 1, n + 16, n + 17
INLINE i32x4 vector_sums(const line_values x) {
    i32x16 pairs[2];
    UNROLL for (int i = 0; i < 2; i++) {
        const i32x16 a = x[2 * i], b = x[2 * i + 1];
        pairs[i] = __builtin_shufflevector(a, b, PAIR_LANES(0), PAIR_LANES(4), PAIR_LANES(8), PAIR_LANES(12)) +
                   __builtin_shufflevector(a, b, PAIR_LANES(2), PAIR_LANES(6), PAIR_LANES(10), PAIR_LANES(14));
    }
    const i32x16 fours =
        __builtin_shufflevector(pairs[0], pairs[1], FOUR_LANES(0), FOUR_LANES(4), FOUR_LANES(8), FOUR_LANES(12)) +
        __builtin_shufflevector(pairs[0], pairs[1], FOUR_LANES(2), FOUR_LANES(6), FOUR_LANES(10), FOUR_LANES(14));
    typedef int32_t i32x8 __attribute__((vector_size(32)));
    const i32x8 halves = __builtin_shufflevector(fours, fours, LANES_FROM(0)) +
                         __builtin_shufflevector(fours, fours, LANES_FROM(8));
    return __builtin_shufflevector(halves, halves, 0, 1, 2, 3) + __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
}

/* Whether the groups of a row are whole lines, or one. */
INLINE int groups_of_lines(quantized_row q) { return q.group % LINE_VALUES == 0 || q.group >= q.width; }

/* The line of values from i on to the digits of a row at y, and to the sums of its groups; totals: of groups of lines, so
 * far. */
INLINE void quantize_line(quantized_row q, row_values v, float inverse, int64_t i, int8_t *y, i32x16 *totals) {
    line_values x, digit;
    UNROLL for (int n = 0; n < LINE_VECTORS; n++)
        x[n] = levels_of(q, values_at(v, q.width, i + n * LANES), inverse);
    UNROLL for (int d = q.digits - 1; d >= 0; d--) {
        int32_t *sums = digit_sums(y + d * digit_stride(q.width), q.width);
        UNROLL for (int n = 0; n < LINE_VECTORS; n++) {
            digit[n] = d ? x[n] << 24 >> 24 : x[n];
            x[n] = (x[n] - digit[n]) >> 8;
        }
        store_line(y + d * digit_stride(q.width) + i, digit);
        if (groups_of_lines(q)) {
            totals[d] += (digit[0] + digit[1]) + (digit[2] + digit[3]);
            continue;
        }
        const i32x4 added = vector_sums(digit);
        if (q.group == LANES) {
            memcpy(sums + i / LANES, &added, sizeof added);
            continue;
        }
        UNROLL for (int n = 0; n < LINE_VECTORS; n++) {
            const int64_t at = i + n * LANES;
            if (at < q.width) sums[at / q.group] = (at % q.group ? sums[at / q.group] : 0) + added[n];
        }
    }
}

/* Of a row whose scale is stored. */
INLINE float stored_row_scale(quantized_row q) {
    return q.digits == E4M3_DIGITS ? q.stored / E4M3_STEPS : q.stored;
}

/* The lines of a row that is about to be written. Other cores have read them, and a store that waits for its line holds
 * up those behind it. */
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
    i32x16 totals[E4M3_DIGITS] = {{0}};
    for (int64_t i = 0; i < q.width; i += LINE_VALUES) {
        quantize_line(q, v, inverse, i, y, totals);
        if (!groups_of_lines(q) || (i + LINE_VALUES < q.width && (i + LINE_VALUES) % q.group)) continue;
        UNROLL for (int d = 0; d < q.digits; d++) {
            digit_sums(y + d * digit_stride(q.width), q.width)[i / q.group] = __builtin_reduce_add(totals[d]);
            totals[d] = splat_int(0);
        }
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
