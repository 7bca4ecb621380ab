"""From a step's results to deltas: the token goes to its sequence, and the sequence may end."""

from __future__ import annotations

from inflight.runtime.request.deltas import FinishReason, RequestMetrics, TokenDelta
from inflight.runtime.scheduler.sequence import Sequence
from inflight.runtime.scheduler.step import SequenceResult, TokenResult
from inflight.runtime.structured.grammar import Grammar


def receive(sequence: Sequence, token_id: int | None, result: SequenceResult | None, now_ns: int) -> TokenDelta | None:
    """Take the chosen token of one step, the log probabilities if there are any, and what a grammar forces behind it.

    None when no token was chosen (a chunk that is not the prompt's last).
    """
    if result is not None:
        sequence.prompt_results.extend(result.prompt)
    if token_id is None:
        return None
    sequence.last_token_ns = now_ns
    group = sequence.group
    delta = TokenDelta(group.request.request_id, sequence.index, (token_id,))
    if result is not None and result.sampled is not None and sequence.sampling.num_logprobs >= 0:
        delta.logprobs = (result.sampled,)
    if sequence.first_token_ns == 0:
        sequence.first_token_ns = now_ns
        delta.prompt_logprobs = _prompt_logprobs(sequence)
        delta.cached_tokens = sequence.cached_tokens
    _take(sequence, token_id, delta)
    if sequence.grammar is not None and _may_skip_sampling(sequence):
        _take_forced(sequence, sequence.grammar, delta)
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


def _take(sequence: Sequence, token_id: int, delta: TokenDelta) -> None:
    """Add the token to the sequence, and say in `delta` if it is the last."""
    sequence.token_ids.append(token_id)
    rules, grammar = sequence.group.rules, sequence.grammar
    stops = token_id in rules.stop_ids
    if grammar is not None and not stops and grammar.failure is None:
        grammar.accept(token_id)
    if grammar is not None and grammar.failure is not None:
        delta.finish_reason, delta.error, delta.requests_fault = "error", grammar.failure, True
    elif stops:
        delta.ended_by_token = True
        delta.stop_reason = None if token_id in rules.end_ids else token_id
        delta.finish_reason = "stop"
    elif grammar is not None and grammar.ended:
        delta.finish_reason = "stop"
    elif len(sequence.token_ids) > sequence.max_computed:
        delta.finish_reason = "length"


def _may_skip_sampling(sequence: Sequence) -> bool:
    """Whether a token that the grammar forces may be taken without its logits: nobody asks for its log probability, and
    no bias can forbid it."""
    return sequence.sampling.num_logprobs < 0 and not sequence.sampling.bias


def _take_forced(sequence: Sequence, grammar: Grammar, delta: TokenDelta) -> None:
    """Take the tokens that the grammar leaves no choice about (Zheng et al. 2024, "SGLang": jump-forward decoding): the
    sampling step would choose the very same, one step each. The next step computes them as one chunk."""
    while delta.finish_reason is None and (token_id := grammar.forced()) is not None:
        delta.token_ids += (token_id,)
        _take(sequence, token_id, delta)


def _prompt_logprobs(sequence: Sequence) -> tuple[TokenResult | None, ...] | None:
    if sequence.index != 0 or sequence.group.request.params.prompt_logprobs is None:
        return None
    return (None,) * (sequence.prompt_length - len(sequence.prompt_results)) + tuple(sequence.prompt_results)
