/* What the threads of a pool wait at (pool.h). */
#ifndef INFLIGHT_TURNSTILE_H
#define INFLIGHT_TURNSTILE_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "vec.h"

#if defined(__linux__)
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#define SPINS_AT_BARRIER 4000
#define SPINS_BETWEEN_STEPS 20000

/* The operator that comes, and who takes part in it. */
typedef struct {
    int number;
    int taking; /* threads; 0: there is none, the launch has ended */
    int first;  /* number of the first of those that share it out */
    int open;   /* whether thread 0 may join them */
} pool_turn;

/* A number that only grows; threads wait until it differs from what they saw. */
typedef struct {
    _Alignas(CACHE_LINE) atomic_uint value;
    atomic_uint sleepers;
    pool_turn turn; /* of those who are let through, who read it before the number can grow again */
#if !defined(__linux__)
    pthread_mutex_t mutex;
    pthread_cond_t changed;
#endif
} turnstile;

INLINE void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void turnstile_init(turnstile *t) {
    atomic_init(&t->value, 0);
    atomic_init(&t->sleepers, 0);
#if !defined(__linux__)
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->changed, NULL);
#endif
}

static void turnstile_wait(turnstile *t, unsigned seen, int spins) {
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(&t->value, memory_order_acquire) != seen) return;
        cpu_relax();
    }
    atomic_fetch_add(&t->sleepers, 1);
#if defined(__linux__)
    while (atomic_load(&t->value) == seen) syscall(SYS_futex, &t->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
    pthread_mutex_lock(&t->mutex);
    while (atomic_load(&t->value) == seen) pthread_cond_wait(&t->changed, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
#endif
    atomic_fetch_sub(&t->sleepers, 1);
}

static void turnstile_advance(turnstile *t) {
#if defined(__linux__)
    atomic_fetch_add(&t->value, 1);
    if (atomic_load(&t->sleepers)) syscall(SYS_futex, &t->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    pthread_mutex_lock(&t->mutex);
    atomic_fetch_add(&t->value, 1);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
#endif
}

#endif
