/* llama.cpp as a peer: one process that loads a GGUF, answers one prompt greedily and prints what it measured.
 *
 * usage: llama_peer MODEL BACKENDS THREADS TOKENS STREAMS
 * (the prompt's token ids on standard input, separated by spaces; with more than one stream all continue that prompt)
 * prints: first_token_ms since the start of main, then prefill and decode rates over all streams, and CPU per token.
 * Linked against the shared libraries of the npm package @node-llama-cpp/linux-x64; see bench.py. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "ggml-backend.h"
#include "llama.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

static llama_token best(struct llama_context *context, int row, int vocabulary) {
    const float *logits = llama_get_logits_ith(context, row);
    llama_token winner = 0;
    for (int i = 1; i < vocabulary; i++)
        if (logits[i] > logits[winner]) winner = i;
    return winner;
}

int main(int count, char **arguments) {
    double start = now();
    if (count != 6) return 2;
    int threads = atoi(arguments[3]), tokens = atoi(arguments[4]), streams = atoi(arguments[5]);
    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(arguments[2]);
    struct llama_model_params model_params = llama_model_default_params();
    struct llama_model *model = llama_model_load_from_file(arguments[1], model_params);
    if (!model) return 3;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 4096;
    params.n_seq_max = streams;
    params.kv_unified = true;
    params.n_batch = params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = threads;
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) return 4;
    int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    static llama_token prompt[4096];
    int length = 0;
    while (length < 1536 && scanf("%d", &prompt[length]) == 1) length++;
    double loaded = now();
    if (llama_decode(context, llama_batch_get_one(prompt, length))) return 5;
    llama_token token[64] = {best(context, -1, vocabulary)};
    double first = now(), cpu_first = cpu();
    for (int s = 1; s < streams; s++) {
        llama_memory_seq_cp(llama_get_memory(context), 0, s, -1, -1);
        token[s] = token[0];
    }
    struct llama_batch batch = llama_batch_init(streams, 0, 1);
    for (int i = 1; i < tokens; i++) {
        batch.n_tokens = streams;
        for (int s = 0; s < streams; s++) {
            batch.token[s] = token[s];
            batch.pos[s] = length + i - 1;
            batch.n_seq_id[s] = 1;
            batch.seq_id[s][0] = s;
            batch.logits[s] = 1;
        }
        if (llama_decode(context, batch)) return 6;
        for (int s = 0; s < streams; s++) token[s] = best(context, s, vocabulary);
    }
    double end = now();
    int made = (tokens - 1) * streams;
    printf("{\"first_token_ms\": %.1f, \"load_ms\": %.1f, \"prefill_per_second\": %.1f, \"decode_per_second\": %.1f, "
           "\"decode_cpu_ms_per_token\": %.3f, \"last\": %d}\n",
           (first - start) * 1e3, (loaded - start) * 1e3, length / (first - loaded), made / (end - first),
           (cpu() - cpu_first) * 1e3 / made, token[0]);
    return 0;
}
