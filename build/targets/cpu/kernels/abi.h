/* The boundary of a compiled engine. The loader in runtime/executors/cpu/executor.py mirrors these records with ctypes;
 * INFLIGHT_ABI goes into the manifest and must change whenever one of them does. */
#ifndef INFLIGHT_ABI_H
#define INFLIGHT_ABI_H

#include <stdint.h>

#define INFLIGHT_ABI 9
#define INFLIGHT_MAX_TOP_LOGPROBS 64

#define INFLIGHT_OK 0
#define INFLIGHT_LIMIT 1  /* the batch breaks a limit of the engine; nothing was computed */
#define INFLIGHT_MEMORY 2 /* the operating system refused memory or a thread */
#define INFLIGHT_FILE 3   /* the weights file could not be read; the step's results mean nothing */

/* How one logit row is used. target >= 0: report that token's log probability. target < 0: choose a token. */
typedef struct {
    uint64_t seed;
    uint64_t position; /* the generator is keyed by (seed, position) */
    const int32_t *history; /* prompt then output; NULL unless a penalty is on. Where the row's token follows the step
                             * before, its last place is that token's, which is written there */
    const int32_t *bias_ids;
    const float *bias_values; /* added to the logits; -INFINITY bans */
    const uint32_t *allowed;  /* NULL, or a bit for each token of the vocabulary: 0 bans */
    int32_t history_length, prompt_length, num_bias;
    int32_t target;
    int32_t num_top_logprobs; /* -1: no log probabilities at all */
    int32_t top_k;            /* 0: off */
    float temperature, top_p, min_p, typical_p, top_n_sigma;
    float repetition_penalty, presence_penalty, frequency_penalty;
    float watermark_delta, watermark_gamma; /* 0: off, and the share of tokens that a token favours */
} inflight_sampling;

/* A ragged batch: sequence s owns rows sequence_starts[s] .. sequence_starts[s + 1] - 1, at positions
 * context_lengths[s], context_lengths[s] + 1, ... */
typedef struct {
    int32_t num_sequences, num_tokens, num_logit_rows, block_table_stride;
    int32_t *token_ids;                  /* [num_tokens] */
    const int32_t *sequence_starts;      /* [num_sequences + 1] */
    const int32_t *context_lengths;      /* [num_sequences]: tokens already in the cache */
    const int32_t *block_tables;         /* [num_sequences][block_table_stride] */
    const int32_t *logit_rows;           /* [num_logit_rows], ascending row numbers */
    const inflight_sampling *sampling;   /* [num_logit_rows] */
    const int32_t *token_types;          /* [num_tokens]; NULL where the model has none */
    const int32_t *follows;              /* NULL, or [num_tokens]: the logit row of the step before whose token it is;
                                          * -1: it is the one in token_ids */
} inflight_batch;

typedef struct {
    int32_t *tokens;       /* [num_logit_rows]: the chosen token, or the target */
    float *logprobs;       /* [num_logit_rows] */
    int32_t *ranks;        /* [num_logit_rows], from 1 */
    int32_t *top_ids;      /* [num_logit_rows][INFLIGHT_MAX_TOP_LOGPROBS] */
    float *top_logprobs;   /* [num_logit_rows][INFLIGHT_MAX_TOP_LOGPROBS] */
    float *logits;         /* NULL, or [num_logit_rows][output_size] */
} inflight_output;

/* What one operator of the model computes and moves at least. In a step it has T rows (or the logit rows), sees
 * `pairs` pairs of a row and a token of its context, and reads `context` cached tokens; both stop at the window. */
typedef struct {
    const char *kind, *name;
    int64_t logit_rows; /* its rows are the step's logit rows */
    int64_t flops_per_row, bytes_per_row, weight_bytes;
    int64_t flops_per_pair, bytes_per_context_token, window; /* window 0: none */
} inflight_operator;

/* What the engine was compiled for, whatever its manifest says. */
typedef struct {
    const char *digest; /* of the code: its source and compiler */
    int64_t weights_bytes, workspace_bytes, bytes_per_block, vocab_size, output_size, tokens_per_block;
    int64_t max_batch_size, max_seq_len, max_num_tokens, max_logit_rows;
} inflight_build;

typedef struct inflight_engine inflight_engine;

void inflight_get_build(inflight_build *build);

/* weights: the mapped weights file, weights_bytes. weights_file: its descriptor, open for reading; tables of which a
 * step needs single rows are read through it, so that they take none of the process's memory. kv_cache: num_blocks *
 * bytes_per_block bytes. workspace: workspace_bytes. All are 64-byte aligned; the caller owns them and outlives the
 * engine. Returns NULL when threads cannot be started. */
inflight_engine *inflight_open(const void *weights, int32_t weights_file, void *kv_cache, int64_t num_blocks,
                               void *workspace, int32_t threads);

/* Steps are computed in the order in which they were submitted, and two at most are submitted and not collected. Records
 * and arrays are read, and tokens written to them, until a step was collected. One is computed at the latest while it is
 * collected; one behind another begins when that has ended, on all threads but the caller's. */
int32_t inflight_submit(inflight_engine *engine, const inflight_batch *batch, const inflight_output *output);
/* Compute the first of them that was not collected, together with the other threads. */
int32_t inflight_collect(inflight_engine *engine);
/* Both, of a step alone. */
int32_t inflight_step(inflight_engine *engine, const inflight_batch *batch, const inflight_output *output);
/* Forget what was submitted and not collected. Nothing is computed any more when this returns. */
void inflight_abandon(inflight_engine *engine);
void inflight_close(inflight_engine *engine);
int32_t inflight_abi(void);

/* The operators in the order in which a step runs them; sampling is the last. Returns how many. */
int32_t inflight_operators(const inflight_operator **operators);
/* From the next step on, every step adds to nanoseconds[i] what operator i took until all threads had ended it. NULL
 * ends it. The caller owns the array, as long as the operators are. */
void inflight_profile(inflight_engine *engine, uint64_t *nanoseconds);

#endif
