/* What every operator of a compiled engine can see. The build defines INFLIGHT_BUILD, the digest of this code, and the
 * emitter the limits before it includes this file:
 * VOCAB_SIZE, TOKEN_TYPES (0: none), OUTPUT_SIZE (VOCAB_SIZE, or the size of what is pooled), MAX_BATCH_SIZE, MAX_SEQ_LEN, MAX_NUM_TOKENS, MAX_LOGIT_ROWS, TOKENS_PER_BLOCK, the sizes WEIGHTS_BYTES,
 * WORKSPACE_BYTES and BYTES_PER_BLOCK, and the workspace offsets POSITIONS_OFFSET and SEQUENCES_OFFSET of two int32
 * [MAX_NUM_TOKENS] arrays. */
#ifndef INFLIGHT_ENGINE_H
#define INFLIGHT_ENGINE_H

#include <time.h>

#include "abi.h"
#include "attention.h"
#include "head_linear.h"
#include "elementwise.h"
#include "embedding.h"
#include "quantized_experts.h"
#include "float8_experts.h"
#include "qlinear.h"
#include "sampling.h"

/* A step that was submitted. */
typedef struct {
    const inflight_batch *batch;
    const inflight_output *output;
    int32_t status; /* what collecting it returns */
} inflight_submitted;

/* An engine has no state outside this record, so several can live in one process. */
struct inflight_engine {
    pool pool;
    const unsigned char *weights;
    unsigned char *kv_cache, *workspace, *scratch;
    int64_t num_blocks;
    int32_t weights_file;
    /* Steps are counted: so many were submitted, computed and collected. Two at most are submitted and not collected. */
    inflight_submitted steps[2];
    atomic_uint submitted, done;
    unsigned collected;
    atomic_int stopping; /* the launch is to end behind the operator that runs */
    /* of the step that runs: */
    int32_t status; /* what it returns */
    const inflight_batch *batch;
    const inflight_output *output;
    token_rows rows;
    uint64_t *profile, operator_start; /* nanoseconds; profile is NULL when nobody asked */
};

#define SCRATCH_BYTES round_up(INFLIGHT_SAMPLE_SCRATCH(VOCAB_SIZE), CACHE_LINE)

/* The cache holds, layer after layer, all blocks of keys and then all blocks of values. */
INLINE void *key_region(const inflight_engine *e, cache_shape s, int64_t layer) {
    int64_t keys = s.num_kv_heads * key_elements(s), values = s.latent ? 0 : s.num_kv_heads * value_elements(s);
    return at(s.type, e->kv_cache, e->num_blocks * layer * (keys + values));
}
INLINE void *value_region(const inflight_engine *e, cache_shape s, int64_t layer) {
    return at(s.type, key_region(e, s, layer), e->num_blocks * s.num_kv_heads * key_elements(s));
}

/* The last operator: logits [logit rows][VOCAB_SIZE] to tokens. A piece of work is one row. */
INLINE void sample_rows(inflight_engine *e, int thread, const float *logits) {
    const inflight_output *out = e->output;
    unsigned char *scratch = e->scratch + thread * SCRATCH_BYTES;
    for (int64_t row; (row = pool_take(&e->pool)) < e->batch->num_logit_rows;) {
        const float *values = logits + row * VOCAB_SIZE;
        if (out->logits) memcpy(out->logits + row * VOCAB_SIZE, values, VOCAB_SIZE * sizeof *values);
        const int32_t previous = e->batch->token_ids[e->batch->logit_rows[row]];
        inflight_sample_row(values, VOCAB_SIZE, &e->batch->sampling[row], previous, out, (int)row, scratch);
    }
}

/* The last operator of a model whose hidden states are pooled: rows [logit rows][OUTPUT_SIZE] as they are. */
INLINE void return_rows(inflight_engine *e, int thread, const float *rows) {
    (void)thread;
    for (int64_t row; (row = pool_take(&e->pool)) < e->batch->num_logit_rows;)
        if (e->output->logits)
            memcpy(e->output->logits + row * OUTPUT_SIZE, rows + row * OUTPUT_SIZE, OUTPUT_SIZE * sizeof *rows);
}

static uint64_t nanoseconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void add_to_profile(inflight_engine *e, int index) {
    uint64_t end = nanoseconds_now();
    e->profile[index] += end - e->operator_start;
    e->operator_start = end;
}

static void run_operator(inflight_engine *e, pool *p, int thread, int number);

#endif
