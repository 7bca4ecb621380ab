/* Steps of seven operators of whole numbers, in place of a model's: which operators are open, and what the threads do
 * between two looks at what they share, is all that matters here. */
#include <stdatomic.h>
#include <sched.h>
#include <stdint.h>

static _Thread_local uint32_t dice = 1;
static uint32_t draw(uint32_t *state) { return (*state = *state * 1664525u + 1013904223u) >> 8; }

/* A thread stays away now and then where it reads what another may change, as on a machine that is busy. */
static void stay_away(void) {
    if (draw(&dice) % 32 == 0)
        for (uint32_t times = draw(&dice) % 8 + 1; times > 0; times--) sched_yield();
}
#undef atomic_load
#define atomic_load(place) (stay_away(), atomic_load_explicit(place, memory_order_seq_cst))

#define INFLIGHT_BUILD "steps"
#define NUM_OPERATORS 7
#define VOCAB_SIZE 997
#define TOKEN_TYPES 0
#define OUTPUT_SIZE VOCAB_SIZE
#define MAX_BATCH_SIZE 1
#define MAX_SEQ_LEN 1000000
#define MAX_NUM_TOKENS 1
#define MAX_LOGIT_ROWS 1
#define TOKENS_PER_BLOCK 1000000
#define WEIGHTS_BYTES 0
#define WORKSPACE_BYTES 4096
#define BYTES_PER_BLOCK 64
#define POSITIONS_OFFSET 0
#define SEQUENCES_OFFSET 64
#include "engine.h"

enum { PIECES = 37, VALUES_OFFSET = 128 };
static const unsigned char OPEN_OPERATORS[NUM_OPERATORS] = {0, 1, 0, 1, 1, 0, 1};
static const inflight_operator OPERATORS[NUM_OPERATORS];

#define OWN_PIECES(i) \
    int64_t i = share_start(p, thread, PIECES); i < share_start(p, thread + 1, PIECES); i++
#define TAKEN_PIECES(i) int64_t i; (i = pool_take(p)) < PIECES;
#define NEAR_PIECES(i) int64_t i; (i = pool_take_near(p, thread, PIECES, 1).number) >= 0;

static void run_operator(inflight_engine *e, pool *p, int thread, int number) {
    uint32_t *a = (uint32_t *)(e->workspace + VALUES_OFFSET), *b = a + PIECES, *c = b + PIECES, hash = 0;
    const inflight_batch *batch = e->batch;
    switch (number) {
    case 0:
        for (OWN_PIECES(i)) a[i] = (uint32_t)(batch->token_ids[0] * 31 + batch->context_lengths[0] * 7919 + i);
        return;
    case 1:
        for (NEAR_PIECES(i)) b[i] = a[i * 7 % PIECES] * 3 + a[i];
        return;
    case 2:
        for (OWN_PIECES(i)) c[i] = b[i * 5 % PIECES] + b[i];
        pool_barrier(p);
        for (OWN_PIECES(i)) a[i] = c[PIECES - 1 - i] + 1;
        return;
    case 3:
        for (TAKEN_PIECES(i)) b[i] = a[PIECES - 1 - i] * 3 + a[i];
        pool_barrier(p);
        for (TAKEN_PIECES(i)) c[i] = b[(i + 1) % PIECES] * 5 ^ b[i];
        return;
    case 4:
        for (NEAR_PIECES(i)) a[i] = c[i] + c[i * 11 % PIECES];
        return;
    case 5:
        for (OWN_PIECES(i)) b[i] = a[PIECES - 1 - i] * 17;
        return;
    default:
        for (int64_t row; (row = pool_take(p)) < batch->num_logit_rows;) {
            for (int i = 0; i < PIECES; i++) hash = (hash ^ b[i] ^ hash >> 15) * 16777619u;
            e->output->tokens[row] = (int32_t)((hash >> 8) % VOCAB_SIZE);
        }
    }
}

#include "entry.h"

/* A batch of one token, and what becomes of it. */
typedef struct {
    int32_t token, starts[2], context, row, table, follows, chosen;
    inflight_sampling sampling;
    inflight_batch batch;
    inflight_output output;
} one_token;

static int32_t submit(inflight_engine *e, one_token *step, int32_t token, int32_t context, int follows) {
    const int32_t chosen = step->chosen; /* of the step before last: the last one may not have read it yet */
    *step = (one_token){.token = token, .starts = {0, 1}, .context = context, .chosen = chosen};
    step->batch = (inflight_batch){1, 1, 1, 1, &step->token, step->starts, &step->context, &step->table,
                                   &step->row, &step->sampling, NULL, follows ? &step->follows : NULL};
    step->output = (inflight_output){.tokens = &step->chosen};
    return inflight_submit(e, &step->batch, &step->output);
}

static inflight_engine *opened(unsigned char *workspace, int threads) {
    return inflight_open(NULL, -1, NULL, 1, workspace, threads);
}

/* `steps` tokens, each of the one before: tokens[0] is the first of them. Steps are submitted ahead, dropped, profiled
 * and left at the end of an engine as `seed` has it; 0: each is executed alone. Returns a status that is not OK. */
EXPORT int32_t generate(int32_t threads, int32_t steps, uint32_t seed, int32_t *tokens) {
    static _Alignas(CACHE_LINE) unsigned char workspace[WORKSPACE_BYTES];
    static uint64_t profile[NUM_OPERATORS];
    static one_token pair[2];
    inflight_engine *e = opened(workspace, threads);
    int32_t status = INFLIGHT_OK;
    int turn = 0, under_way = 0;
    for (int32_t i = 0; i < steps && status == INFLIGHT_OK; i++, turn = !turn) {
        if (!under_way) status = submit(e, &pair[turn], tokens[i], i, 0);
        under_way = seed && draw(&seed) % 8;
        if (under_way && status == INFLIGHT_OK) status = submit(e, &pair[!turn], 0, i + 1, 1);
        if (status == INFLIGHT_OK) status = inflight_collect(e);
        tokens[i + 1] = pair[turn].chosen;
        const uint32_t next = seed ? draw(&seed) % 64 : 64;
        if (next < 4) inflight_abandon(e);
        if (next == 4) inflight_close(e), e = opened(workspace, threads);
        if (next < 5) under_way = 0;
        if (next > 4 && next < 10) inflight_profile(e, next % 2 ? profile : NULL);
    }
    inflight_close(e);
    return status;
}
