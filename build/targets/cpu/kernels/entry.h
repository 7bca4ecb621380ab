/* The functions of abi.h. */
#ifndef INFLIGHT_ENTRY_H
#define INFLIGHT_ENTRY_H

#include "stepping.h"

#define EXPORT __attribute__((visibility("default")))

static int in_range(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

static int sequence_fits(const inflight_engine *e, const inflight_batch *b, int32_t sequence) {
    int64_t start = b->sequence_starts[sequence], count = b->sequence_starts[sequence + 1] - start;
    int64_t context = b->context_lengths[sequence];
    if (!in_range(count, 1, b->num_tokens - start) || !in_range(context, 0, MAX_SEQ_LEN - count)) return 0;
    int64_t blocks = ceil_div(context + count, TOKENS_PER_BLOCK);
    if (blocks > b->block_table_stride) return 0;
    for (int64_t i = 0; i < blocks; i++)
        if (!in_range(b->block_tables[(int64_t)sequence * b->block_table_stride + i], 0, e->num_blocks - 1)) return 0;
    return 1;
}

/* `before`: the batch of the step that was submitted before it; NULL: that was collected. */
static int batch_fits(const inflight_engine *e, const inflight_batch *b, const inflight_batch *before) {
    if (!in_range(b->num_sequences, 1, MAX_BATCH_SIZE) || !in_range(b->num_tokens, 1, MAX_NUM_TOKENS)) return 0;
    if (!in_range(b->num_logit_rows, 0, MAX_LOGIT_ROWS) || b->sequence_starts[0] != 0) return 0;
    for (int32_t i = 0; i < b->num_sequences; i++)
        if (!sequence_fits(e, b, i)) return 0;
    if (b->sequence_starts[b->num_sequences] != b->num_tokens) return 0;
    for (int32_t i = 0; i < b->num_tokens; i++)
        if (!in_range(b->token_ids[i], 0, VOCAB_SIZE - 1)) return 0;
    for (int32_t i = 0; b->follows && i < b->num_tokens; i++)
        if (!in_range(b->follows[i], -1, before ? before->num_logit_rows - 1 : -1)) return 0;
    for (int32_t i = 0; TOKEN_TYPES && i < b->num_tokens; i++)
        if (!b->token_types || !in_range(b->token_types[i], 0, TOKEN_TYPES - 1)) return 0;
    for (int32_t i = 0; i < b->num_logit_rows; i++)
        if (!in_range(b->logit_rows[i], i ? b->logit_rows[i - 1] + 1 : 0, b->num_tokens - 1)) return 0;
    return 1;
}

EXPORT int32_t inflight_abi(void) { return INFLIGHT_ABI; }

EXPORT void inflight_get_build(inflight_build *build) {
    *build = (inflight_build){INFLIGHT_BUILD,   WEIGHTS_BYTES,  WORKSPACE_BYTES, BYTES_PER_BLOCK, VOCAB_SIZE, OUTPUT_SIZE,
                              TOKENS_PER_BLOCK, MAX_BATCH_SIZE, MAX_SEQ_LEN,     MAX_NUM_TOKENS,  MAX_LOGIT_ROWS};
}

EXPORT int32_t inflight_operators(const inflight_operator **operators) {
    *operators = OPERATORS;
    return NUM_OPERATORS;
}

EXPORT void inflight_profile(inflight_engine *e, uint64_t *nanoseconds) {
    wait_until_idle(e);
    e->profile = nanoseconds;
}

EXPORT int32_t inflight_submit(inflight_engine *e, const inflight_batch *batch, const inflight_output *output) {
    const unsigned number = atomic_load(&e->submitted), waiting = number - e->collected;
    const inflight_batch *before = waiting ? e->steps[(number - 1) & 1].batch : NULL;
    if (waiting > 1 || !batch_fits(e, batch, before)) return INFLIGHT_LIMIT;
    if (e->pool.members > 1 && e->pool.owner != getpid()) return INFLIGHT_MEMORY;
    e->steps[number & 1] = (inflight_submitted){batch, output, INFLIGHT_OK};
    atomic_store(&e->submitted, number + 1);
    return INFLIGHT_OK;
}

EXPORT int32_t inflight_collect(inflight_engine *e) {
    const unsigned number = e->collected;
    if (atomic_load(&e->submitted) == number) return INFLIGHT_LIMIT;
    while (atomic_load(&e->done) == number) {
        pool_turn turn = {0};
        if (atomic_load(&e->pool.idle)) turn = begin_launch(e, number, e->pool.members);
        else if ((turn.number = pool_join(&e->pool, &e->done, number)) < 0) continue;
        do turn = pass_operator(e, &e->pool, 0, turn);
        while (atomic_load(&e->done) == number);
    }
    /* The step behind it, if it was submitted when this one had ended already. */
    e->collected = number + 1;
    if (e->pool.members > 1 && atomic_load(&e->pool.idle) && atomic_load(&e->submitted) != number + 1 &&
        atomic_load(&e->done) == number + 1)
        begin_launch(e, number + 1, e->pool.members - 1);
    return e->steps[number & 1].status;
}

EXPORT int32_t inflight_step(inflight_engine *e, const inflight_batch *batch, const inflight_output *output) {
    const int32_t status = inflight_submit(e, batch, output);
    return status == INFLIGHT_OK ? inflight_collect(e) : status;
}

EXPORT void inflight_abandon(inflight_engine *e) {
    atomic_store(&e->stopping, 1);
    wait_until_idle(e);
    atomic_store(&e->stopping, 0);
    e->collected = atomic_load(&e->submitted);
    atomic_store(&e->done, e->collected);
}

EXPORT void inflight_close(inflight_engine *e) {
    if (!e) return;
    inflight_abandon(e);
    pool_close(&e->pool);
    free(e->scratch);
    free(e);
}

EXPORT inflight_engine *inflight_open(const void *weights, int32_t weights_file, void *kv_cache, int64_t num_blocks,
                                      void *workspace, int32_t threads) {
    void *memory = NULL, *scratch = NULL;
    if (threads < 1) return NULL;
    if (posix_memalign(&memory, CACHE_LINE, sizeof(inflight_engine))) return NULL;
    if (posix_memalign(&scratch, CACHE_LINE, (size_t)threads * (size_t)SCRATCH_BYTES)) scratch = NULL;
    inflight_engine *e = memory;
    memset(e, 0, sizeof *e);
    e->weights = weights;
    e->weights_file = weights_file;
    e->kv_cache = kv_cache;
    e->workspace = workspace;
    e->scratch = scratch;
    e->num_blocks = num_blocks;
    if (scratch && pool_open(&e->pool, threads, run_launch)) return e;
    free(scratch);
    free(e);
    return NULL;
}

#endif
