/* The machine's limits: bytes read a second from memory and from the caches, operations a second of every mix of
 * instructions that products are made of (mixes.h, tiles.h), and the processor's cycles a second.
 * usage: limits THREADS MEMORY_BYTES [WORKING_SET_BYTES, not more [read]]  ->  one line per limit: KIND NAME VALUE (1e9
 * a second), where KIND is read, clock or the type of a product's inputs. All threads together; the clock is that of
 * one. With `read` at the end, those of reading alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "mixes.h"
#include "tiles.h"

#define REPEATS 11
#define STRIDE 512              /* bytes that the reading loop takes at once */
#define LEAST_READ (64L << 20)  /* bytes of one measurement */
#define LEAST_SHARE (16L << 10) /* of a thread */

typedef double (*kernel)(void); /* returns the work done, in operations or cycles */

static const char *memory;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* `share` bytes that are this thread's alone, as often as makes a measurement. */
static double read_share(int thread, long share) {
    const long passes = share < LEAST_READ ? LEAST_READ / share : 1;
    floats sum[8] = {0};
    for (long pass = 0; pass < passes; pass++) {
        const floats *p = (const floats *)(memory + thread * share), *end = p + share / WIDTH;
        for (; p < end; p += 8) UNROLL for (int i = 0; i < 8; i++) sum[i] += p[i];
        KEEP_ORDER();
    }
    for (int i = 1; i < 8; i++) sum[0] += sum[i];
    sink = sum[0][0];
    return (double)passes * share;
}

typedef struct {
    kernel run; /* NULL: read */
    int thread;
    long share;
    double work, begin, end;
    pthread_barrier_t *start;
} task;

/* Takes the times itself: a thread beside the workers may get its turn when they are half done. */
static void *worker(void *argument) {
    task *t = argument;
    pthread_barrier_wait(t->start);
    t->begin = now();
    t->work = t->run ? t->run() : read_share(t->thread, t->share);
    t->end = now();
    return 0;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* The best of some measurements: whatever else runs on the machine only lowers them. */
static void measure(const char *name, kernel run, long share, int threads) {
    pthread_t *handles = calloc(threads, sizeof *handles);
    task *tasks = calloc(threads, sizeof *tasks);
    if (!handles || !tasks) fail("calloc");
    double best = 0;
    for (int r = 0; r < REPEATS; r++) {
        pthread_barrier_t start;
        pthread_barrier_init(&start, 0, threads);
        for (int i = 0; i < threads; i++) {
            tasks[i] = (task){run, i, share, 0, 0, 0, &start};
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
    printf("%s %.3f\n", name, best);
    free(handles);
    free(tasks);
}

/* The bytes of each thread when all together have `bytes`. */
static long share_of(long bytes, int threads) {
    long share = bytes / threads / STRIDE * STRIDE;
    return share < LEAST_SHARE ? LEAST_SHARE : share;
}

static void measure_reading(long bytes, long working_set, int threads) {
    const long most = bytes + threads * LEAST_SHARE;
    char *taken = mmap(0, most, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (taken == MAP_FAILED) fail("mmap");
#if defined(MADV_HUGEPAGE)
    madvise(taken, most, MADV_HUGEPAGE);
#endif
    for (long i = 0; i < most; i += 64) taken[i] = (char)i;
    memory = taken;
    measure("read memory", NULL, share_of(bytes, threads), threads);
    if (working_set) measure("read working_set", NULL, share_of(working_set, threads), threads);
    munmap(taken, most);
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 0;
    const long bytes = argc > 2 ? atol(argv[2]) : 0, working_set = argc > 3 ? atol(argv[3]) : 0;
    if (threads < 1 || bytes < 1 || working_set < 0 || working_set > bytes) {
        fprintf(stderr, "usage: limits THREADS MEMORY_BYTES [WORKING_SET_BYTES, not more [read]]\n");
        return 1;
    }
    measure_reading(bytes, working_set, threads);
    if (argc > 4 && !strcmp(argv[4], "read")) return 0;
    measure("clock cycles", cycles, 0, 1);
    measure("float32 fma", float32_fma, 0, threads);
    measure("bfloat16 widened", bfloat16_widened, 0, threads);
#if defined(HAS_BFLOAT16_DOT)
    measure("bfloat16 dot", bfloat16_dot, 0, threads);
#endif
#if defined(HAS_BFLOAT16_MATRIX)
    measure("bfloat16 matrix", bfloat16_matrix, 0, threads);
#endif
#if defined(HAS_INT8_PAIRS)
    measure("int8 byte_pairs", int8_byte_pairs, 0, threads);
    measure("int8 word_pairs", int8_word_pairs, 0, threads);
#endif
#if defined(HAS_INT8_DOT)
    measure("int8 dot", int8_dot, 0, threads);
#endif
#if defined(HAS_INT8_MATRIX)
    measure("int8 matrix", int8_matrix, 0, threads);
#endif
#if defined(HAS_TILES)
    if (may_use_tiles()) {
        measure("bfloat16 tiles", bfloat16_tiles, 0, threads);
        measure("int8 tiles", int8_tiles, 0, threads);
    }
#endif
    return 0;
}
