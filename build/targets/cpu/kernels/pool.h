/* The thread pool: a launch wakes every thread once, and all of them run the same list of operators with a barrier
 * between two.
 *
 * Work inside an operator is taken from one counter, which the last thread to reach a barrier sets back to zero. Which
 * thread does what varies; results do not depend on it, because an output element is computed by one thread in its own
 * order.
 *
 * Thread 0 is the caller's, who has other work between two steps: a launch may begin without it, and it joins later.
 * Operators whose work is taken from counters are `open`: it joins them in their midst. Others give each thread a part
 * in advance, and so none to a thread that is absent. */
#ifndef INFLIGHT_POOL_H
#define INFLIGHT_POOL_H

#include <stdlib.h>
#include <unistd.h>

#include "turnstile.h"

#define WORKER_STACK_BYTES (4 << 20) /* a written panel is at most 2 MiB (amx_multiples.h) */

/* One thread's share of the pieces of an operator. */
typedef struct {
    _Alignas(CACHE_LINE) atomic_ullong taken; /* pieces taken from its front, and in the upper half from its back */
    const void *expected;                     /* what this thread will probably read first in a later operator */
} pool_share;

/* `present`: threads that take part in the operator that runs, above them those that have ended it, and in the upper half
 * the barrier's number while it runs. */
#define ENDED (1ull << 15)
#define MAY_JOIN (1ull << 31)

typedef struct pool {
    turnstile start, barrier;
    _Alignas(CACHE_LINE) atomic_ullong present;
    _Alignas(CACHE_LINE) atomic_llong next_item;
    _Alignas(CACHE_LINE) int threads; /* that share out the operator that runs */
    int members;                      /* threads that there are */
    atomic_int idle;                  /* no launch is under way */
    pid_t owner;                      /* a forked child has the memory but not the threads */
    int closing;
    void (*run)(void *argument, struct pool *pool, int thread);
    void *argument;
    pthread_t *workers;
    pool_share *shares;
} pool;

/* No piece of the next operator is taken yet. Lines that nobody has written stay in all caches. */
static void pool_restart(pool *p) {
    if (atomic_load_explicit(&p->next_item, memory_order_relaxed))
        atomic_store_explicit(&p->next_item, 0, memory_order_relaxed);
    for (int i = 0; i < p->members; i++)
        if (atomic_load_explicit(&p->shares[i].taken, memory_order_relaxed))
            atomic_store_explicit(&p->shares[i].taken, 0, memory_order_relaxed);
}

INLINE int taking_part(uint64_t present) { return (int)(present & (ENDED - 1)); }
INLINE int all_ended(uint64_t present) { return (int)(present / ENDED & (ENDED - 1)) == taking_part(present); }
INLINE uint64_t presence(pool_turn turn, unsigned barrier) {
    return (uint64_t)barrier << 32 | (turn.open ? MAY_JOIN : 0) | (unsigned)turn.taking;
}

/* Every thread that takes part passes when the last of them has come; what they wrote before is then visible to all. The
 * last calls `next` with the operator's number and how many they were, which says what comes. */
INLINE pool_turn pool_meet(pool *p, int number, pool_turn (*next)(pool *, int, int)) {
    const unsigned seen = atomic_load_explicit(&p->barrier.value, memory_order_acquire);
    const uint64_t present = atomic_fetch_add_explicit(&p->present, ENDED, memory_order_acq_rel) + ENDED;
    if (!all_ended(present)) {
        turnstile_wait(&p->barrier, seen, SPINS_AT_BARRIER);
        return p->barrier.turn;
    }
    pool_restart(p);
    const pool_turn turn = next(p, number, taking_part(present));
    atomic_store_explicit(&p->present, presence(turn, seen + 1), memory_order_release);
    p->barrier.turn = turn;
    turnstile_advance(&p->barrier);
    if (turn.taking == 0) atomic_store(&p->idle, 1); /* the last of all: the next launch may begin */
    return turn;
}

static pool_turn nobody_joins(pool *p, int number, int taking) {
    (void)p;
    return (pool_turn){number, taking, 0, 0};
}

/* A barrier amid an operator, which nobody joins behind it. */
static void pool_barrier(pool *p) {
    if (p->threads == 1) pool_restart(p);
    else pool_meet(p, 0, nobody_joins);
}

/* How so many threads share out operator `number`. Where one is missing, they alone do, or, of one that is `open`, all
 * as ever, since it joins them. */
INLINE pool_turn pool_share_out(pool *p, int number, int taking, int open) {
    const int absent = taking < p->members, first = absent && !open;
    if (p->threads != p->members - first) p->threads = p->members - first;
    return (pool_turn){number, taking, first, absent && open};
}

/* By thread 0: take part in the operator that runs, once that is open. Returns its number, or -1, without taking part,
 * when the launch is over or *done is no more `number`. */
static int pool_join(pool *p, atomic_uint *done, unsigned number) {
    for (unsigned spins = 0; atomic_load(done) == number && !atomic_load(&p->idle); spins++) {
        unsigned long long present = atomic_load_explicit(&p->present, memory_order_relaxed);
        if ((present & MAY_JOIN) && !all_ended(present & ~MAY_JOIN) &&
            atomic_compare_exchange_strong(&p->present, &present, (present & ~MAY_JOIN) + 1)) {
            /* Not before the others are let through: this thread would pass with them at its own next barrier. */
            while (atomic_load_explicit(&p->barrier.value, memory_order_acquire) != (unsigned)(present >> 32)) cpu_relax();
            return p->barrier.turn.number;
        }
        if (spins < SPINS_AT_BARRIER) cpu_relax();
        else sched_yield();
    }
    return -1;
}

/* The number of the next piece of work of this operator; pieces end where the caller's count ends. */
INLINE int64_t pool_take(pool *p) { return atomic_fetch_add_explicit(&p->next_item, 1, memory_order_relaxed); }

/* This thread's part of `count` equal pieces. */
INLINE int64_t share_start(const pool *p, int thread, int64_t count) { return count * thread / p->threads; }

/* A piece from the front (or the back) of a share of `count` pieces: how many were taken there before, or -1 when the
 * share is used up. Each attempt draws a number from one counter, so no piece is taken twice. */
INLINE int64_t share_take(pool_share *share, int64_t count, int back) {
    uint64_t one = back ? 1ull << 32 : 1;
    uint64_t taken = atomic_fetch_add_explicit(&share->taken, one, memory_order_relaxed);
    int64_t front = (int64_t)(uint32_t)taken, behind = (int64_t)(taken >> 32);
    if (front + behind >= count) return -1;
    return back ? behind : front;
}

/* A piece of work, and the thread whose share it is of; pieces `start` to `end` are that share. */
typedef struct {
    int64_t number, start, end; /* number -1: there is none left */
} shared_piece;

/* The next of `count` pieces for this thread: its own share in order, so that it reads memory in one stream, then from
 * the end of other threads' shares. Shares are whole multiples of `together` pieces, as `count` is. An operator uses
 * this or pool_take, not both. */
INLINE shared_piece pool_take_near(pool *p, int thread, int64_t count, int64_t together) {
    for (int i = 0; i < p->threads; i++) {
        const int owner = (thread + i) % p->threads;
        const int64_t start = share_start(p, owner, count / together) * together;
        const int64_t end = share_start(p, owner + 1, count / together) * together;
        const int64_t taken = share_take(&p->shares[owner], end - start, i > 0);
        if (taken >= 0) return (shared_piece){i > 0 ? end - 1 - taken : start + taken, start, end};
    }
    return (shared_piece){-1, 0, 0};
}

/* `panels` panels lie at `weights`; a later operator shares them out. */
INLINE void pool_expect(pool *p, int thread, const void *weights, int64_t panels, int64_t panel_bytes) {
    p->shares[thread].expected = (const unsigned char *)weights + share_start(p, thread, panels) * panel_bytes;
}

typedef struct {
    pool *pool;
    int thread;
} pool_seat;

static void *pool_worker(void *argument) {
    pool_seat seat = *(pool_seat *)argument;
    free(argument);
    for (unsigned seen = 0;; seen++) {
        turnstile_wait(&seat.pool->start, seen, SPINS_BETWEEN_STEPS);
        if (seat.pool->closing) return NULL;
        seat.pool->run(seat.pool->argument, seat.pool, seat.thread);
    }
}

/* Let every thread but number 0 run the pool's function, which begins with `start.turn`, closed, and ends behind a
 * barrier of all that take part. */
static void pool_launch(pool *p, void *argument, pool_turn turn) {
    p->argument = argument;
    pool_restart(p);
    atomic_store(&p->idle, 0);
    atomic_store(&p->present, presence(turn, atomic_load(&p->barrier.value)));
    p->start.turn = turn;
    if (p->members > 1) turnstile_advance(&p->start);
}

static void pool_close(pool *p) {
    if (p->owner == getpid() && p->members > 1) {
        p->closing = 1;
        turnstile_advance(&p->start);
        for (int i = 1; i < p->members; i++) pthread_join(p->workers[i], NULL);
    }
    free(p->workers);
    free(p->shares);
}

static int pool_spawn(pool *p, int thread, const pthread_attr_t *attributes) {
    pool_seat *seat = malloc(sizeof *seat);
    if (!seat) return 0;
    *seat = (pool_seat){p, thread};
    if (pthread_create(&p->workers[thread], attributes, pool_worker, seat) == 0) return 1;
    free(seat);
    return 0;
}

static pool_share *pool_shares(size_t threads) {
    void *memory = NULL;
    if (posix_memalign(&memory, CACHE_LINE, threads * sizeof(pool_share))) return NULL;
    return memset(memory, 0, threads * sizeof(pool_share));
}

/* Returns 0, with nothing left running, when memory or threads are refused. */
static int pool_open(pool *p, int threads, void (*run)(void *, pool *, int)) {
    memset(p, 0, sizeof *p);
    turnstile_init(&p->start);
    turnstile_init(&p->barrier);
    p->owner = getpid();
    p->run = run;
    p->members = 1;
    atomic_init(&p->idle, 1);
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    p->shares = pool_shares((size_t)threads);
    pthread_attr_t attributes;
    if (!p->workers || !p->shares || pthread_attr_init(&attributes)) {
        free(p->workers);
        free(p->shares);
        return 0;
    }
    pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTES);
    while (p->members < threads && pool_spawn(p, p->members, &attributes)) p->members++;
    pthread_attr_destroy(&attributes);
    if (p->members == threads) return 1;
    pool_close(p);
    return 0;
}

#endif
