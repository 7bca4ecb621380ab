/* A whole engine as one program: greedy tokens of one sequence, and the logits behind each, to a file.
 * Arguments: weights file, prompt file (int32), output file, number of tokens, cache bytes per block, workspace bytes. */
#include <stdio.h>
#include <stdlib.h>

#include "engine.c"

static void *aligned(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) exit(2);
    memset(memory, 0, bytes);
    return memory;
}

static void *read_file(const char *path, long *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) exit(2);
    *bytes = ftell(file);
    rewind(file);
    void *content = aligned((size_t)*bytes);
    if (fread(content, 1, (size_t)*bytes, file) != (size_t)*bytes) exit(2);
    fclose(file);
    return content;
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    enum { BLOCKS = (MAX_SEQ_LEN + TOKENS_PER_BLOCK - 1) / TOKENS_PER_BLOCK };
    static float logits[VOCAB_SIZE], logprobs[1], top_logprobs[INFLIGHT_MAX_TOP_LOGPROBS];
    static int32_t next[1], ranks[1], top_ids[INFLIGHT_MAX_TOP_LOGPROBS], table[BLOCKS];
    long weight_bytes, prompt_bytes;
    void *weights = read_file(argv[1], &weight_bytes);
    int32_t *tokens = read_file(argv[2], &prompt_bytes);
    for (int i = 0; i < BLOCKS; i++) table[i] = BLOCKS - 1 - i;
    inflight_engine *engine = inflight_open(weights, aligned((size_t)(BLOCKS * atol(argv[5]))), BLOCKS,
                                            aligned((size_t)atol(argv[6])), 2);
    FILE *file = fopen(argv[3], "wb");
    if (!engine || !file) return 2;
    int32_t context = 0, count = (int32_t)(prompt_bytes / 4);
    for (int step = 0; step < atoi(argv[4]); step++) {
        int32_t starts[2] = {0, count}, row = count - 1;
        inflight_sampling sampling = {.target = -1, .num_top_logprobs = -1, .top_p = 1, .repetition_penalty = 1};
        inflight_batch batch = {1, count, 1, BLOCKS, tokens, starts, &context, table, &row, &sampling};
        inflight_output output = {next, logprobs, ranks, top_ids, top_logprobs, logits};
        if (inflight_step(engine, &batch, &output) != INFLIGHT_OK) return 1;
        fwrite(next, sizeof next, 1, file);
        fwrite(logits, sizeof logits, 1, file);
        context += count;
        count = 1;
        tokens = next;
    }
    fclose(file);
    inflight_close(engine);
    return 0;
}
