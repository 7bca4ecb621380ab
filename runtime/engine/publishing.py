"""From a step's results to deltas: the token goes to its sequence, and the sequence may end."""

from __future__ import annotations

from inflight.runtime.request.deltas import FinishReason, RequestMetrics, TokenDelta
from inflight.runtime.scheduler.sequence import Sequence
from inflight.runtime.scheduler.step import SequenceResult, TokenResult


def receive(sequence: Sequence, token_id: int | None, result: SequenceResult | None, now_ns: int) -> TokenDelta | None:
    """Take the chosen token of one step, and the log probabilities if there are any.

    None when no token was chosen (a chunk that is not the prompt's last).
    """
    if result is not None:
        sequence.prompt_results.extend(result.prompt)
    if token_id is None:
        return None
    sequence.token_ids.append(token_id)
    sequence.last_token_ns = now_ns
    group = sequence.group
    delta = TokenDelta(group.request.request_id, sequence.index, (token_id,))
    if result is not None and result.sampled is not None and sequence.sampling.num_logprobs >= 0:
        delta.logprobs = (result.sampled,)
    if sequence.first_token_ns == 0:
        sequence.first_token_ns = now_ns
        delta.prompt_logprobs = _prompt_logprobs(sequence)
        delta.cached_tokens = sequence.cached_tokens
    if failure := _follow_grammar(sequence, token_id):
        delta.finish_reason, delta.error, delta.requests_fault = "error", failure, True
    elif token_id in group.rules.stop_ids:
        delta.ended_by_token = True
        delta.stop_reason = None if token_id in group.rules.end_ids else token_id
        delta.finish_reason = "stop"
    elif sequence.grammar is not None and sequence.grammar.ended:
        delta.finish_reason = "stop"
    elif len(sequence.token_ids) > sequence.max_computed:
        delta.finish_reason = "length"
    if delta.finish_reason is not None or group.request.metrics_in_every_delta:
        delta.metrics = metrics(sequence)
    return delta


def final_delta(sequence: Sequence, reason: FinishReason, error: str | None = None) -> TokenDelta:
    """The last delta of a sequence that something other than a token ended."""
    return TokenDelta(
        sequence.group.request.request_id, sequence.index, finish_reason=reason, metrics=metrics(sequence), error=error
    )


def metrics(sequence: Sequence) -> RequestMetrics:
    return RequestMetrics(
        arrival_ns=sequence.group.arrival_ns,
        first_scheduled_ns=sequence.first_scheduled_ns,
        first_token_ns=sequence.first_token_ns,
        last_token_ns=sequence.last_token_ns,
        prompt_tokens=sequence.prompt_length,
        cached_tokens=sequence.cached_tokens,
        output_tokens=sequence.num_outputs,
        kv_blocks_total=sequence.new_blocks,
        kv_blocks_new=sequence.new_blocks,
        kv_blocks_reused=sequence.reused_blocks,
        preemptions=sequence.preemptions,
    )


def _follow_grammar(sequence: Sequence, token_id: int) -> str | None:
    """Take the token into the structured output, if there is one. Returns why that failed."""
    grammar = sequence.grammar
    if grammar is None:
        return None
    if grammar.failure is None and token_id not in sequence.group.rules.stop_ids:
        grammar.accept(token_id)
    return grammar.failure


def _prompt_logprobs(sequence: Sequence) -> tuple[TokenResult | None, ...] | None:
    if sequence.index != 0 or sequence.group.request.params.prompt_logprobs is None:
        return None
    return (None, *sequence.prompt_results)
