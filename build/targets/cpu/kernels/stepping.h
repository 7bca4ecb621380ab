/* How threads go through the operators of a step, and from one step to the next. */
#ifndef INFLIGHT_STEPPING_H
#define INFLIGHT_STEPPING_H

#include "engine.h"

/* One position and one sequence number per row. */
static void lay_out_rows(inflight_engine *e, const inflight_batch *b) {
    int32_t *positions = (int32_t *)(e->workspace + POSITIONS_OFFSET);
    int32_t *sequences = (int32_t *)(e->workspace + SEQUENCES_OFFSET);
    for (int32_t s = 0; s < b->num_sequences; s++) {
        for (int32_t row = b->sequence_starts[s]; row < b->sequence_starts[s + 1]; row++) {
            positions[row] = b->context_lengths[s] + row - b->sequence_starts[s];
            sequences[row] = s;
        }
    }
    e->rows = (token_rows){b->num_tokens, b->num_sequences, b->block_table_stride, positions, sequences,
                           b->sequence_starts, b->block_tables};
}

/* The tokens that the step before chose, to where this one reads them: its rows, and the last place of histories. A step
 * whose weights could not be read may have chosen anything. */
static void take_chosen(const inflight_batch *b, const int32_t *chosen) {
    if (!b->follows) return;
    for (int32_t i = 0; i < b->num_tokens; i++) {
        if (b->follows[i] < 0) continue;
        const int32_t token = chosen[b->follows[i]];
        b->token_ids[i] = token >= 0 && token < VOCAB_SIZE ? token : 0;
    }
    for (int32_t row = 0; row < b->num_logit_rows; row++) {
        const inflight_sampling *sampling = &b->sampling[row];
        const int32_t i = b->logit_rows[row];
        if (b->follows[i] >= 0 && sampling->history_length > 0)
            ((int32_t *)sampling->history)[sampling->history_length - 1] = b->token_ids[i];
    }
}

/* While no thread computes. */
static void begin_step(inflight_engine *e, unsigned number) {
    const inflight_output *before = e->output;
    const inflight_submitted *step = &e->steps[number & 1];
    if (before) take_chosen(step->batch, before->tokens);
    e->batch = step->batch;
    e->output = step->output;
    e->status = INFLIGHT_OK;
    lay_out_rows(e, step->batch);
    if (e->profile) e->operator_start = nanoseconds_now();
}

/* By the last thread to end an operator: the next one, of this step or of the one behind it, which thread 0 joins when
 * it comes back. */
static pool_turn next_operator(pool *p, int ended, int taking) {
    const pool_turn nothing = {0};
    inflight_engine *e = p->argument;
    if (atomic_load(&e->stopping)) return nothing;
    if (ended + 1 < NUM_OPERATORS) return pool_share_out(p, ended + 1, taking, OPEN_OPERATORS[ended + 1]);
    const unsigned number = atomic_load(&e->done);
    if (e->profile) add_to_profile(e, ended);
    e->steps[number & 1].status = e->status;
    const int more = p->members > 1 && atomic_load(&e->submitted) - number > 1;
    if (more) begin_step(e, number + 1);
    const pool_turn turn = more ? pool_share_out(p, 0, p->members - 1, OPEN_OPERATORS[0]) : nothing;
    atomic_store(&e->done, number + 1);
    return turn;
}

/* Run an operator and wait for its end; returns what comes. The time of all but a step's last is taken by the first of
 * its threads, behind the barrier. */
INLINE pool_turn pass_operator(inflight_engine *e, pool *p, int thread, pool_turn turn) {
    run_operator(e, p, thread - turn.first, turn.number);
    const pool_turn next = pool_meet(p, turn.number, next_operator);
    if (e->profile && next.number > 0 && thread == (next.taking < p->members)) add_to_profile(e, turn.number);
    return next;
}

/* What the other threads run, from where the launch began to its end. */
static void run_launch(void *argument, pool *p, int thread) {
    for (pool_turn turn = p->start.turn; turn.taking;) turn = pass_operator(argument, p, thread, turn);
}

/* By thread 0, while no launch is under way: of as many threads, all or all the others. */
static pool_turn begin_launch(inflight_engine *e, unsigned number, int threads) {
    begin_step(e, number);
    const pool_turn turn = pool_share_out(&e->pool, 0, threads, 0);
    pool_launch(&e->pool, e, turn);
    return turn;
}

/* Until the other threads have nothing more to do. A forked child has none. */
static void wait_until_idle(inflight_engine *e) {
    for (unsigned spins = 0; e->pool.owner == getpid() && !atomic_load(&e->pool.idle); spins++) {
        if (spins < SPINS_AT_BARRIER) cpu_relax();
        else sched_yield();
    }
}

#endif
