/* One loop per mix of instructions that a product is made of, in the widest vectors of the machine, on registers and
 * the first-level cache alone.
 *
 * A sum is a chain: the next multiply-add of it waits for the last. CHAINS of them are independent, more than the
 * latency of an instruction (4 to 6 cycles) times the units that take it (1 to 4), and few enough that every sum and
 * both operands stay in registers: a sum that is spilled measures the memory, not the unit. */
#ifndef INFLIGHT_MIXES_H
#define INFLIGHT_MIXES_H

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 64 /* bytes of a vector */
#define CHAINS 24
#define REGISTER "v"
#elif defined(__x86_64__)
#define WIDTH 32
#define CHAINS 12
#define REGISTER "x"
#else
#define WIDTH 16
#define CHAINS 24
#define REGISTER "w"
#endif
#define ROWS 6 /* of a tile, as the kernels have them; CHAINS / ROWS vectors of columns */
#define COLUMNS (CHAINS / ROWS)
#define ROUNDS 2000000L

typedef float floats __attribute__((vector_size(WIDTH)));
typedef int32_t words __attribute__((vector_size(WIDTH)));
typedef uint32_t bits __attribute__((vector_size(WIDTH)));

#define UNROLL _Pragma("clang loop unroll(full)")
#define EACH_CHAIN UNROLL for (int c = 0; c < CHAINS; c++)
/* The compiler must take the value as changed here, so it can neither fold nor drop what made it. */
#define KEEP(x) __asm__ volatile("" : "+" REGISTER(x))
/* Loads stay where they are written, so that no more values live at once than there are registers. */
#define KEEP_ORDER() __asm__ volatile("" ::: "memory")

static volatile float sink;

/* All sums are used, so that none is dropped. */
#define FINISH(sums)                                     \
    do {                                                 \
        for (int c = 1; c < CHAINS; c++) sums[0] += sums[c]; \
        sink = (float)sums[0][0];                        \
    } while (0)

/* Multiply-adds of float32. */
static double float32_fma(void) {
    floats sum[CHAINS], x = (floats){0} + 1.0f, y = (floats){0} + 1e-6f;
    EACH_CHAIN sum[c] = (floats){0};
    KEEP(x);
    KEEP(y);
    for (long i = 0; i < ROUNDS; i++) EACH_CHAIN {
        sum[c] = __builtin_elementwise_fma(x, y, sum[c]);
        KEEP(sum[c]);
    }
    FINISH(sum);
    return 2.0 * (WIDTH / 4) * CHAINS * ROUNDS;
}

/* An instruction that adds dots of short rows to the lanes of a sum: `products` of them each time. */
#define DOT_LOOP(name, type, operand, start, products, dot)    \
    static double name(void) {                                 \
        type sum[CHAINS];                                      \
        operand x = start, y = start;                          \
        EACH_CHAIN sum[c] = (type){0};                         \
        KEEP(x);                                               \
        KEEP(y);                                               \
        for (long i = 0; i < ROUNDS; i++) EACH_CHAIN {         \
            sum[c] = (type)dot;                                \
            KEEP(sum[c]);                                      \
        }                                                      \
        FINISH(sum);                                           \
        return 2.0 * (products) * CHAINS * ROUNDS;             \
    }

#define ONES ((words){0} + 0x01010101)
#define BF16_ONES ((words){0} + 0x3f803f80)

#if defined(__AVX512BF16__)
#define HAS_BFLOAT16_DOT
DOT_LOOP(bfloat16_dot, floats, words, BF16_ONES, WIDTH / 2,
         _mm512_dpbf16_ps((__m512)sum[c], (__m512bh)x, (__m512bh)y))
#elif defined(__ARM_FEATURE_BF16)
#define HAS_BFLOAT16_DOT
#define HAS_BFLOAT16_MATRIX
DOT_LOOP(bfloat16_dot, floats, words, BF16_ONES, WIDTH / 2,
         vbfdotq_f32((float32x4_t)sum[c], (bfloat16x8_t)x, (bfloat16x8_t)y))
DOT_LOOP(bfloat16_matrix, floats, words, BF16_ONES, 16,
         vbfmmlaq_f32((float32x4_t)sum[c], (bfloat16x8_t)x, (bfloat16x8_t)y))
#endif

/* Pairs of bfloat16 widened to float32 in two halves, then multiply-adds: the kernels' way where no instruction takes
 * bfloat16. The pairs of a row are loaded into every lane; those of the columns serve all rows. */
static double bfloat16_widened(void) {
    static const uint32_t row[ROWS] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
    static const bits column[COLUMNS] = {0};
    floats sum[CHAINS];
    EACH_CHAIN sum[c] = (floats){0};
    for (long i = 0; i < ROUNDS / 2; i++) UNROLL for (int second = 0; second < 2; second++) {
        floats columns[COLUMNS];
        UNROLL for (int v = 0; v < COLUMNS; v++) {
            bits pairs = column[v];
            columns[v] = (floats)(second ? pairs & 0xffff0000u : pairs << 16);
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            bits pair = (bits){0} + row[r];
            KEEP(pair);
            floats value = (floats)(second ? pair & 0xffff0000u : pair << 16);
            UNROLL for (int v = 0; v < COLUMNS; v++)
                sum[r * COLUMNS + v] = __builtin_elementwise_fma(value, columns[v], sum[r * COLUMNS + v]);
            KEEP_ORDER();
        }
    }
    FINISH(sum);
    return 2.0 * (WIDTH / 4) * CHAINS * (ROUNDS / 2 * 2);
}

#if defined(__AVX512VNNI__)
#define HAS_INT8_DOT
DOT_LOOP(int8_dot, words, words, ONES, WIDTH, _mm512_dpbusd_epi32((__m512i)sum[c], (__m512i)x, (__m512i)y))
#elif defined(__AVXVNNI__)
#define HAS_INT8_DOT
DOT_LOOP(int8_dot, words, words, ONES, WIDTH, _mm256_dpbusd_avx_epi32((__m256i)sum[c], (__m256i)x, (__m256i)y))
#elif defined(__ARM_FEATURE_DOTPROD)
#define HAS_INT8_DOT
DOT_LOOP(int8_dot, words, words, ONES, WIDTH, vdotq_s32((int32x4_t)sum[c], (int8x16_t)x, (int8x16_t)y))
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define HAS_INT8_MATRIX
DOT_LOOP(int8_matrix, words, words, ONES, 32, vmmlaq_s32((int32x4_t)sum[c], (int8x16_t)x, (int8x16_t)y))
#endif

/* Bytes to pairs in 16 bits, pairs to quads in 32 bits, and a sum: the way of 4-bit weights, whose pairs fit in 16 bits.
 * Eight-bit weights are widened first and have two VPMADDWD for the same products. */
#if defined(__AVX512BW__)
#define BYTE_PAIRS(a, b) (words) _mm512_maddubs_epi16((__m512i)(a), (__m512i)(b))
#define WORD_PAIRS(a, b) (words) _mm512_madd_epi16((__m512i)(a), (__m512i)(b))
#elif defined(__AVX2__)
#define BYTE_PAIRS(a, b) (words) _mm256_maddubs_epi16((__m256i)(a), (__m256i)(b))
#define WORD_PAIRS(a, b) (words) _mm256_madd_epi16((__m256i)(a), (__m256i)(b))
#endif
#if defined(BYTE_PAIRS)
#define HAS_INT8_PAIRS
static double int8_byte_pairs(void) {
    words sum[CHAINS], x = ONES, ones = (words){0} + 0x00010001;
    EACH_CHAIN sum[c] = (words){0};
    KEEP(x);
    KEEP(ones);
    for (long i = 0; i < ROUNDS; i++) EACH_CHAIN {
        KEEP(x);
        words quads = WORD_PAIRS(BYTE_PAIRS(x, x), ones);
        KEEP(quads);
        sum[c] += quads;
        KEEP(sum[c]);
    }
    FINISH(sum);
    return 2.0 * WIDTH * CHAINS * ROUNDS;
}

static double int8_word_pairs(void) {
    words sum[CHAINS], x = (words){0} + 0x00010001;
    EACH_CHAIN sum[c] = (words){0};
    for (long i = 0; i < ROUNDS; i++) EACH_CHAIN {
        KEEP(x);
        words pairs = WORD_PAIRS(x, x);
        KEEP(pairs);
        sum[c] += pairs;
        KEEP(sum[c]);
    }
    FINISH(sum);
    return 2.0 * (WIDTH / 2) * CHAINS * ROUNDS;
}
#endif

/* A processor cycle is the latency of an integer addition: additions that wait for each other count cycles. */
static double cycles(void) {
    uint64_t x = 1;
    for (long i = 0; i < ROUNDS; i++) {
        UNROLL for (int c = 0; c < 16; c++) {
            x += (uint64_t)i;
            __asm__ volatile("" : "+r"(x));
        }
    }
    sink = (float)x;
    return 16.0 * ROUNDS;
}

#endif
