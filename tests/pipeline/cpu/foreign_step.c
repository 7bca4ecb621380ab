/* Runs one sequence greedily through an engine's library: for machines that are emulated.
 * usage: foreign_step ENGINE WEIGHTS KV_BYTES NUM_BLOCKS WORKSPACE_BYTES VOCAB THREADS STEPS TOKEN...
 * Prints "token" and the logits' bits of every step, one step a line. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

#define MOST 4096

static void *aligned_zeroed(size_t bytes) {
    void *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (memory) memset(memory, 0, bytes);
    return memory;
}

static void *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    void *memory = aligned_zeroed(size);
    return fread(memory, 1, size, file) == size ? memory : NULL;
}

int main(int argc, char **argv) {
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 2;
    __typeof__(inflight_open) *open_engine = (__typeof__(inflight_open) *)dlsym(library, "inflight_open");
    __typeof__(inflight_step) *step = (__typeof__(inflight_step) *)dlsym(library, "inflight_step");
    __typeof__(inflight_close) *close_engine = (__typeof__(inflight_close) *)dlsym(library, "inflight_close");
    int64_t num_blocks = atoll(argv[4]), vocab = atoll(argv[6]);
    inflight_engine *engine =
        open_engine(read_file(argv[2]), open(argv[2], O_RDONLY), aligned_zeroed(strtoull(argv[3], 0, 10)), num_blocks,
                    aligned_zeroed(strtoull(argv[5], 0, 10)), atoi(argv[7]));
    if (!engine) return 3;

    int32_t tokens[MOST], blocks[MOST], count = argc - 9, context = 0, starts[2] = {0}, row, chosen, rank;
    int32_t top_ids[INFLIGHT_MAX_TOP_LOGPROBS];
    float logprob, top_logprobs[INFLIGHT_MAX_TOP_LOGPROBS], *logits = malloc((size_t)vocab * sizeof *logits);
    for (int i = 0; i < count; i++) tokens[i] = atoi(argv[9 + i]);
    for (int64_t i = 0; i < num_blocks; i++) blocks[i] = (int32_t)(num_blocks - 1 - i);
    for (int s = 0; s < atoi(argv[8]); s++) {
        inflight_sampling sampling = {.target = -1, .num_top_logprobs = -1, .top_p = 1.0f};
        sampling.typical_p = sampling.repetition_penalty = 1.0f;
        starts[1] = count;
        row = count - 1;
        inflight_batch batch = {1, count, 1, (int32_t)num_blocks, tokens, starts, &context, blocks, &row, &sampling};
        inflight_output output = {&chosen, &logprob, &rank, top_ids, top_logprobs, logits};
        if (step(engine, &batch, &output) != INFLIGHT_OK) return 4;
        printf("%d", chosen);
        for (int64_t i = 0; i < vocab; i++) {
            uint32_t bits;
            memcpy(&bits, logits + i, sizeof bits);
            printf(" %x", bits);
        }
        printf("\n");
        context += count;
        tokens[0] = chosen;
        count = 1;
    }
    close_engine(engine);
    return 0;
}
