/* The one matrix kernel: a tile of rows x (16 vectors) float32 accumulators in registers, += a (rows x k) b (k x
 * columns).
 *
 * Every accumulator is one chain over k from first to last, so an element's bits depend neither on the tile's shape
 * nor on its neighbours. b is stored in groups of k: one row of columns for F32 and F16; for BF16 two neighbouring k
 * of a column lie together (VDPBF16PS takes such pairs), a missing last k is stored as zero. Rows of a are F32 for F32
 * and F16, BF16 for BF16 (pairs.h) and for E4M3, which is widened to such pairs (e4m3.h). */
#ifndef INFLIGHT_TILE_H
#define INFLIGHT_TILE_H

#include "e4m3.h"

#define TILE_ROWS 6
#define TILE_VECTORS 4

/* As many vectors of columns as registers hold for this many rows: few rows read the weights in long strides. */
INLINE int tile_vectors(int rows) {
#if defined(__AVX512F__)
    (void)rows;
    return TILE_VECTORS;
#else
    return rows == 1 ? TILE_VECTORS : rows <= 3 ? 2 : 1;
#endif
}

/* Rows and columns beyond the constants that a kernel is given never exist: they are optimized away. */
typedef f32x16 tile_sums[TILE_ROWS][TILE_VECTORS];

INLINE int in_pairs(element type) { return type == BF16 || type == E4M3; }
INLINE element act_type(element weights) { return in_pairs(weights) ? BF16 : F32; }
INLINE int64_t group_of(element type) { return in_pairs(type) ? 2 : 1; }

INLINE void tile_step(element type, int rows, int vectors, const float *a, int64_t a_stride, const void *b,
                      tile_sums sums) {
    f32x16 columns[TILE_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) columns[v] = load16(type, b, v * LANES);
    UNROLL for (int r = 0; r < rows; r++) {
        f32x16 x = splat(a[r * a_stride]);
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = fma16(x, columns[v], sums[r][v]);
        keep_order();
    }
}

/* Whether sums are in the order of e4m3_lanes while a tile is multiplied: where pairs are multiplied whole. */
#if defined(PAIRS_IN_HALVES)
#define WHOLE_PAIRS 0
#else
#define WHOLE_PAIRS 1
#endif
INLINE int in_lanes(element type, int vectors) { return WHOLE_PAIRS && type == E4M3 && vectors % 2 == 0; }

/* A pair of k at x, of every row, and of the columns at b. */
INLINE void tile_step_pairs(element type, int rows, int vectors, const uint16_t *x, int64_t x_stride, const void *b,
                            tile_sums sums) {
#if defined(PAIRS_IN_HALVES)
    UNROLL for (int second = 0; second < 2; second++) {
        f32x16 columns[TILE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
            columns[v] = type == E4M3 ? e4m3_half((const unsigned char *)b + v * 32, second)
                                      : pair_half(load_pairs((const unsigned char *)b + v * 64), second);
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 value = pair_half(splat_pair_at(x + r * x_stride), second);
            UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = fma16(value, columns[v], sums[r][v]);
            keep_order();
        }
    }
#else
    bf16_pairs columns[TILE_VECTORS];
    UNROLL for (int v = 0; v < vectors && in_lanes(type, vectors); v += 2)
        e4m3_lanes((const unsigned char *)b + v * 32, (u32x16 *)&columns[v]);
    UNROLL for (int v = 0; v < vectors && !in_lanes(type, vectors); v++)
        columns[v] = type == E4M3 ? (bf16_pairs)e4m3_pairs((const unsigned char *)b + v * 32)
                                  : load_pairs((const unsigned char *)b + v * 64);
    UNROLL for (int r = 0; r < rows; r++) {
        bf16_pair pair = splat_pair(load_pair(x + r * x_stride));
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = add_products(sums[r][v], pair, columns[v]);
    }
#endif
}

/* The most lines of a group of a panel (panels.h): 64 columns of four bytes. */
#define GROUP_LINES 4

/* Memory that a product prefetches while it computes: `bytes` for every group of k. */
typedef struct {
    const unsigned char *next;
    int64_t bytes;
} look_ahead;

/* At most `lines` lines, without a branch: some into the second-level cache; one alone into the first, which disturbs
 * the product least but has room for no more that are on their way. */
INLINE void ask_ahead(int lines, look_ahead *ahead) {
    if (lines == 1) __builtin_prefetch(ahead->next, 0, 3);
    UNROLL for (int i = 0; i < lines && lines > 1; i++) __builtin_prefetch(ahead->next + i * CACHE_LINE, 0, 2);
    ahead->next += ahead->bytes;
}

/* a[row * a_stride + k], b[group * b_stride + ...]; strides in elements. `lines`: of one group of `ahead`, at most. */
INLINE void tile_multiply(element type, int rows, int vectors, int64_t k, const void *a, int64_t a_stride,
                          const void *b, int64_t b_stride, int lines, look_ahead ahead, tile_sums sums) {
    if (!in_pairs(type)) {
        _Pragma("clang loop unroll_count(2)") for (int64_t i = 0; i < k; i++) {
            ask_ahead(lines, &ahead);
            tile_step(type, rows, vectors, (const float *)a + i, a_stride, at(type, b, i * b_stride), sums);
        }
        return;
    }
    const uint16_t *x = a;
    _Pragma("clang loop unroll_count(2)") for (int64_t g = 0; g < k / 2; g++) {
        ask_ahead(lines, &ahead);
        tile_step_pairs(type, rows, vectors, x + 2 * g, a_stride, at(type, b, g * b_stride), sums);
    }
    if (k % 2) {
        uint16_t tail[TILE_ROWS][2];
        UNROLL for (int r = 0; r < rows; r++) tail[r][0] = x[r * a_stride + k - 1], tail[r][1] = 0;
        tile_step_pairs(type, rows, vectors, tail[0], 2, at(type, b, k / 2 * b_stride), sums);
    }
}

/* c[row][column] = (accumulate: +=) sum over k; columns a multiple of 16, c float32. */
INLINE void tile_columns(element type, int rows, int vectors, int64_t k, const void *a, int64_t a_stride, const void *b,
                         int64_t b_stride, float *c, int64_t c_stride, int accumulate, look_ahead ahead) {
    tile_sums sums;
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            sums[r][v] = accumulate ? load16(F32, c, r * c_stride + v * LANES) : splat(0.0f);
    UNROLL for (int r = 0; r < rows && accumulate && in_lanes(type, vectors); r++)
        UNROLL for (int v = 0; v < vectors; v += 2) to_lanes(&sums[r][v]);
#define MULTIPLY(lines) tile_multiply(type, rows, vectors, k, a, a_stride, b, b_stride, lines, ahead, sums)
    if (ahead.bytes <= CACHE_LINE) MULTIPLY(1);
    else if (ahead.bytes <= 2 * CACHE_LINE) MULTIPLY(2);
    else MULTIPLY(GROUP_LINES);
#undef MULTIPLY
    UNROLL for (int r = 0; r < rows && in_lanes(type, vectors); r++)
        UNROLL for (int v = 0; v < vectors; v += 2) from_lanes(&sums[r][v]);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) store16(F32, c, r * c_stride + v * LANES, sums[r][v]);
}

INLINE void tile_all_columns(element type, int rows, int64_t columns, int64_t k, const void *a, int64_t a_stride,
                             const void *b, int64_t b_stride, float *c, int64_t c_stride, int accumulate,
                             look_ahead ahead) {
    const look_ahead nothing = {NULL, 0};
    const int vectors = tile_vectors(rows);
    const int64_t width = vectors * LANES, whole = columns / width * width;
    for (int64_t n = 0; n < whole; n += width)
        tile_columns(type, rows, vectors, k, a, a_stride, at(type, b, n * group_of(type)), b_stride, c + n, c_stride,
                     accumulate, n ? nothing : ahead);
    if (whole < columns)
        tile_columns(type, rows, (int)(columns - whole) / LANES, k, a, a_stride, at(type, b, whole * group_of(type)),
                     b_stride, c + whole, c_stride, accumulate, nothing);
}

/* c[rows][columns] = (accumulate: +=) a[rows][k] b[k][columns] for 1 to TILE_ROWS rows: one kernel per height. Strides
 * are in elements (b's from group to group); columns is a multiple of 16; c is float32. */
INLINE void tile_product_ahead(element type, int64_t rows, int64_t columns, int64_t k, const void *a, int64_t a_stride,
                               const void *b, int64_t b_stride, float *c, int64_t c_stride, int accumulate,
                               look_ahead ahead) {
#define PRODUCT(n) tile_all_columns(type, n, columns, k, a, a_stride, b, b_stride, c, c_stride, accumulate, ahead)
    switch (rows) {
        case 1: PRODUCT(1); break;
        case 2: PRODUCT(2); break;
        case 3: PRODUCT(3); break;
        case 4: PRODUCT(4); break;
        case 5: PRODUCT(5); break;
        default: PRODUCT(TILE_ROWS); break;
    }
#undef PRODUCT
}

/* The same without looking ahead. */
INLINE void tile_product(element type, int64_t rows, int64_t columns, int64_t k, const void *a, int64_t a_stride,
                         const void *b, int64_t b_stride, float *c, int64_t c_stride, int accumulate) {
    const look_ahead nothing = {NULL, 0};
    tile_product_ahead(type, rows, columns, k, a, a_stride, b, b_stride, c, c_stride, accumulate, nothing);
}

/* Rows cut into ceil(rows / TILE_ROWS) nearly equal tiles: tile `index` starts here. */
INLINE int64_t tile_start(int64_t rows, int64_t index) { return rows * index / ceil_div(rows, TILE_ROWS); }

#endif
