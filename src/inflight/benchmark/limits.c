/* The machine's limits: bytes read a second, and operations a second in loops that touch registers only.
 * usage: limits THREADS  ->  one line per limit: NAME VALUE (GB/s or Gop/s) */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BYTES (512L << 20)
#define REPEATS 7
#define STRIDE 512 /* bytes that the reading loop takes at once */

typedef float f32x16 __attribute__((vector_size(64)));
typedef double (*kernel)(int thread, int threads); /* returns the work done, in operations or bytes */

static char *memory;
static volatile float sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static double read_memory(int thread, int threads) {
    long share = BYTES / threads / STRIDE * STRIDE;
    const f32x16 *p = (const f32x16 *)(memory + thread * share), *end = p + share / 64;
    f32x16 sum[8] = {0};
    for (; p < end; p += 8)
        for (int i = 0; i < 8; i++) sum[i] += p[i];
    for (int i = 1; i < 8; i++) sum[0] += sum[i];
    sink = sum[0][0];
    return share;
}

#define ROUNDS 4000000L
#define CHAINS 12

static double fma_float32(int thread, int threads) {
    f32x16 a[CHAINS] = {0}, x = {1.0f}, y = {1e-6f};
    for (long i = 0; i < ROUNDS; i++) {
        for (int c = 0; c < CHAINS; c++) a[c] = __builtin_elementwise_fma(x, y, a[c]);
        __asm__ volatile("" : "+m"(x));
    }
    for (int c = 1; c < CHAINS; c++) a[0] += a[c];
    sink = a[0][0] + thread + threads;
    return 2.0 * 16 * CHAINS * ROUNDS;
}

#if defined(__AVX512BF16__)
static double dot_bfloat16(int thread, int threads) {
    __m512 a[CHAINS];
    for (int c = 0; c < CHAINS; c++) a[c] = _mm512_setzero_ps();
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    for (long i = 0; i < ROUNDS; i++)
        for (int c = 0; c < CHAINS; c++) {
            a[c] = _mm512_dpbf16_ps(a[c], x, x);
            __asm__ volatile("" : "+v"(a[c]));
        }
    for (int c = 1; c < CHAINS; c++) a[0] = _mm512_add_ps(a[0], a[c]);
    sink = a[0][0] + thread + threads;
    return 2.0 * 32 * CHAINS * ROUNDS;
}
#endif

#if defined(__AVX512VNNI__)
static double dot_int8(int thread, int threads) {
    __m512i a[CHAINS], x = _mm512_set1_epi8(1);
    for (int c = 0; c < CHAINS; c++) a[c] = _mm512_setzero_si512();
    for (long i = 0; i < ROUNDS; i++)
        for (int c = 0; c < CHAINS; c++) {
            a[c] = _mm512_dpbusd_epi32(a[c], x, x);
            __asm__ volatile("" : "+v"(a[c]));
        }
    for (int c = 1; c < CHAINS; c++) a[0] = _mm512_add_epi32(a[0], a[c]);
    sink = _mm512_reduce_add_epi32(a[0]) + thread + threads;
    return 2.0 * 64 * CHAINS * ROUNDS;
}
#endif

typedef struct {
    kernel run;
    int thread, threads;
    double work, begin, end;
    pthread_barrier_t *start;
} task;

/* Takes the times itself: a thread beside the workers may get its turn when they are half done. */
static void *worker(void *argument) {
    task *t = argument;
    pthread_barrier_wait(t->start);
    t->begin = now();
    t->work = t->run(t->thread, t->threads);
    t->end = now();
    return 0;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void measure(const char *name, kernel run, int threads) {
    pthread_t *handles = calloc(threads, sizeof *handles);
    task *tasks = calloc(threads, sizeof *tasks);
    if (!handles || !tasks) fail("calloc");
    double best = 0;
    for (int r = 0; r < REPEATS; r++) {
        pthread_barrier_t start;
        pthread_barrier_init(&start, 0, threads);
        for (int i = 0; i < threads; i++) {
            tasks[i] = (task){run, i, threads, 0, 0, 0, &start};
            if ((errno = pthread_create(&handles[i], 0, worker, &tasks[i]))) fail("pthread_create");
        }
        double begin = 0, end = 0, work = 0;
        for (int i = 0; i < threads; i++) {
            pthread_join(handles[i], 0);
            begin = i && begin < tasks[i].begin ? begin : tasks[i].begin;
            end = end > tasks[i].end ? end : tasks[i].end;
            work += tasks[i].work;
        }
        double rate = work / (end - begin) * 1e-9;
        if (rate > best) best = rate;
        pthread_barrier_destroy(&start);
    }
    printf("%s %.1f\n", name, best);
    free(handles);
    free(tasks);
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > BYTES / STRIDE) {
        fprintf(stderr, "%d threads cannot share %ld bytes\n", threads, BYTES);
        return 1;
    }
    memory = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    madvise(memory, BYTES, MADV_HUGEPAGE);
    for (long i = 0; i < BYTES; i += 64) memory[i] = (char)i;
    measure("read_GB_per_s", read_memory, threads);
    measure("float32_Gop_per_s", fma_float32, threads);
#if defined(__AVX512BF16__)
    measure("bfloat16_Gop_per_s", dot_bfloat16, threads);
#endif
#if defined(__AVX512VNNI__)
    measure("int8_Gop_per_s", dot_int8, threads);
#endif
    return 0;
}
