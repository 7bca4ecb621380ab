/* Vectors of 16 lanes and element types.
 *
 * Every vector here has 16 lanes on every machine: one register with AVX-512, two with AVX2, four with NEON. The
 * compiler splits them, the lanes do not see it, so float32 results are the same bits everywhere. Products and sums
 * are fused only where fma is written (-ffp-contract=off). */
#ifndef INFLIGHT_VEC_H
#define INFLIGHT_VEC_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define UNROLL _Pragma("clang loop unroll(full)")
#define LANES 16
#define CACHE_LINE 64

typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef _Float16 f16x16 __attribute__((vector_size(32)));

/* The type of an element at rest. Arithmetic is float32 always; BF16 products may pair neighbours (tile.h). I8 and
 * I4 are types of the KV cache alone (cache.h), where I4 is counted in bytes of two; E4M3 is one of weights (float8.h)
 * and of the cache, whose pairs are BF16 in registers. */
typedef enum { F32, F16, BF16, I8, I4, E4M3 } element;

INLINE int64_t element_size(element type) { return type == F32 ? 4 : type == I8 || type == I4 || type == E4M3 ? 1 : 2; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
INLINE int64_t min_int(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max_int(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE void *at(element type, const void *base, int64_t index) {
    return (unsigned char *)base + index * element_size(type);
}

INLINE f32x16 splat(float x) { return (f32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) { return __builtin_elementwise_fma(a, b, c); }
INLINE i32x16 lane_numbers(void) { return (i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
INLINE i32x16 splat_int(int32_t x) { return lane_numbers() * 0 + x; }

/* a where mask is all ones, b where it is zero. */
INLINE f32x16 select16(i32x16 mask, f32x16 a, f32x16 b) {
    return (f32x16)((mask & (i32x16)a) | (~mask & (i32x16)b));
}

INLINE f32x16 from_bf16(u16x16 x) { return (f32x16)(__builtin_convertvector(x, u32x16) << 16); }

/* Round to nearest even. (The instruction also takes denormals for zero.) */
INLINE u16x16 to_bf16(f32x16 x) {
#if defined(__AVX512BF16__)
    typedef __bf16 bf16x16 __attribute__((vector_size(32)));
    return (u16x16)__builtin_convertvector(x, bf16x16);
#endif
    u32x16 bits = (u32x16)x;
    bits += 0x7fff + ((bits >> 16) & 1);
    return __builtin_convertvector(bits >> 16, u16x16);
}

INLINE float bf16_to_float(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE uint16_t float_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* 16 elements from p[i], unaligned. */
INLINE f32x16 load16(element type, const void *p, int64_t i) {
    if (type == F32) {
        f32x16 x;
        memcpy(&x, (const float *)p + i, sizeof x);
        return x;
    }
    if (type == F16) {
        f16x16 x;
        memcpy(&x, (const _Float16 *)p + i, sizeof x);
        return __builtin_convertvector(x, f32x16);
    }
    u16x16 x;
    memcpy(&x, (const uint16_t *)p + i, sizeof x);
    return from_bf16(x);
}

INLINE void store16(element type, void *p, int64_t i, f32x16 x) {
    if (type == F32) {
        memcpy((float *)p + i, &x, sizeof x);
    } else if (type == F16) {
        f16x16 half = __builtin_convertvector(x, f16x16);
        memcpy((_Float16 *)p + i, &half, sizeof half);
    } else {
        u16x16 half = to_bf16(x);
        memcpy((uint16_t *)p + i, &half, sizeof half);
    }
}

/* The first `count` of 16 elements; the other lanes read as 0 and are not written. */
INLINE f32x16 load_part(element type, const void *p, int64_t i, int64_t count) {
    uint32_t buffer[LANES] = {0};
    memcpy(buffer, at(type, p, i), (size_t)(count * element_size(type)));
    return load16(type, buffer, 0);
}

INLINE void store_part(element type, void *p, int64_t i, int64_t count, f32x16 x) {
    uint32_t buffer[LANES];
    store16(type, buffer, 0, x);
    memcpy(at(type, p, i), buffer, (size_t)(count * element_size(type)));
}

/* The elements from i up to `end`, 16 at most. */
INLINE f32x16 load_until(element type, const void *p, int64_t i, int64_t end) {
    return i + LANES <= end ? load16(type, p, i) : load_part(type, p, i, end - i);
}

INLINE void store_until(element type, void *p, int64_t i, int64_t end, f32x16 x) {
    if (i + LANES <= end) store16(type, p, i, x);
    else store_part(type, p, i, end - i, x);
}

/* y[i] = x[i] * scale, in y's type. */
INLINE void scale_row(element type, int64_t count, const float *x, float scale, void *y) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store16(type, y, i, load16(F32, x, i) * scale);
    if (i < count) store_part(type, y, i, count - i, load_part(F32, x, i, count - i) * scale);
}

INLINE float load1(element type, const void *p, int64_t i) {
    if (type == F32) return ((const float *)p)[i];
    if (type == F16) return (float)((const _Float16 *)p)[i];
    return bf16_to_float(((const uint16_t *)p)[i]);
}

INLINE void store1(element type, void *p, int64_t i, float x) {
    if (type == F32) ((float *)p)[i] = x;
    else if (type == F16) ((_Float16 *)p)[i] = (_Float16)x;
    else ((uint16_t *)p)[i] = float_to_bf16(x);
}

/* One tree: halves are added, 8, 4, 2, 1. */
INLINE float sum16(f32x16 x) {
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    return (x[0] + x[2]) + (x[1] + x[3]);
}

#endif
