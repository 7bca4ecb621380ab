// llama.cpp: llama_worker MODEL.gguf THREADS
//
// Speaks the protocol of protocol.py. A step is one llama_decode: whole prompts first, then one token of every
// sequence, the likeliest one each time. Each sequence has a KV stream of its own, no longer than the request needs:
// that is llama.cpp's fastest. A context is made again, outside the measured time, when a request has another form.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "llama.h"

using Prompts = std::vector<std::vector<llama_token>>;

static void fail(const std::string & message) {
    std::cerr << "llama.cpp: " << message << "\n";
    std::exit(1);
}

// The protocol's one object: {"prompts": [[ids], ...], "max_tokens": n}.
static void parse(const std::string & line, Prompts & prompts, int & max_tokens) {
    prompts.clear();
    size_t at = line.find("[[");
    if (at == std::string::npos) fail("a request without prompts");
    while (at < line.size() && line[at] != ']') {
        at = line.find('[', at + 1);
        prompts.emplace_back();
        while (line[at] != ']') {
            char * end = nullptr;
            prompts.back().push_back((llama_token) std::strtol(&line[at + 1], &end, 10));
            at = end - line.data();
        }
        at++;
    }
    max_tokens = std::atoi(&line[line.find(':', line.find("\"max_tokens\"")) + 1]);
}

struct Engine {
    llama_model * model;
    llama_context * context = nullptr;
    llama_batch batch = {};
    int threads, vocabulary, users = 0, length = 0;

    Engine(const char * path, int threads) : threads(threads) {
        llama_backend_init();
        model = llama_model_load_from_file(path, llama_model_default_params());
        if (!model) fail(std::string("cannot load ") + path);
        vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    }

    void prepare(int new_users, int new_length) {
        if (new_users == users && new_length == length) return;
        if (context) llama_free(context), llama_batch_free(batch);
        users = new_users, length = new_length;
        llama_context_params params = llama_context_default_params();
        params.n_ctx = params.n_batch = users * ((length + 255) / 256 * 256);
        params.n_seq_max = users;
        params.n_threads = params.n_threads_batch = threads;
        context = llama_init_from_model(model, params);
        if (!context) fail("cannot make a context");
        batch = llama_batch_init(users * length, 0, 1);
    }

    void add(llama_token token, int position, int sequence, bool wants_logits) {
        int i = batch.n_tokens++;
        batch.token[i] = token;
        batch.pos[i] = position;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = sequence;
        batch.logits[i] = wants_logits;
    }

    llama_token likeliest(int row) {
        const float * logits = llama_get_logits_ith(context, row);
        return (llama_token) (std::max_element(logits, logits + vocabulary) - logits);
    }

    // The number of tokens that were made.
    int generate(const Prompts & prompts, int max_tokens) {
        llama_memory_clear(llama_get_memory(context), false);
        std::vector<int> rows(prompts.size());
        batch.n_tokens = 0;
        for (size_t s = 0; s < prompts.size(); s++) {
            for (size_t i = 0; i < prompts[s].size(); i++) add(prompts[s][i], i, s, i + 1 == prompts[s].size());
            rows[s] = batch.n_tokens - 1;
        }
        int made = 0;
        for (int step = 0; step < max_tokens; step++) {
            if (llama_decode(context, batch) != 0) fail("llama_decode failed");
            batch.n_tokens = 0;
            for (size_t s = 0; s < prompts.size(); s++, made++) {
                llama_token next = likeliest(rows[s]);
                rows[s] = batch.n_tokens;
                add(next, prompts[s].size() + step, s, true);
            }
        }
        return made;
    }
};

int main(int argc, char ** argv) {
    if (argc != 3) fail("usage: llama_worker MODEL.gguf THREADS");
    std::ios::sync_with_stdio(false);
    FILE * answers = fdopen(dup(1), "w");
    dup2(2, 1);  // whatever the library prints cannot break the protocol
    Engine engine(argv[1], std::atoi(argv[2]));
    std::fprintf(answers, "{\"ready\": true, \"version\": \"llama.cpp %s\"}\n", PACKAGE_VERSION);
    std::fflush(answers);
    std::string line;
    Prompts prompts;
    int max_tokens = 0;
    while (std::getline(std::cin, line)) {
        parse(line, prompts, max_tokens);
        engine.prepare(prompts.size(), prompts[0].size() + max_tokens);
        auto start = std::chrono::steady_clock::now();
        int made = engine.generate(prompts, max_tokens);
        double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        std::fprintf(answers, "{\"seconds\": %.9f, \"tokens\": %d}\n", seconds, made);
        std::fflush(answers);
    }
}
