"""From a step's results to deltas: the token goes to its sequence, and the sequence may end."""

from __future__ import annotations

from inflight.runtime.deltas import FinishReason, RequestMetrics, TokenDelta
from inflight.runtime.sequence import Sequence
from inflight.runtime.step import SequenceResult, TokenResult


def receive(sequence: Sequence, result: SequenceResult, now_ns: int) -> TokenDelta | None:
    """Take the result of one step; None when no token was chosen (a chunk that is not the prompt's last)."""
    if result.prompt:
        sequence.prompt_results.extend(result.prompt)
    sampled = result.sampled
    if sampled is None:
        return None
    sequence.token_ids.append(sampled.token_id)
    sequence.last_token_ns = now_ns
    first = sequence.first_token_ns == 0
    if first:
        sequence.first_token_ns = now_ns
    request = sequence.group.request
    reason, ended_by_token = _end(sequence, sampled.token_id)
    return TokenDelta(
        request.request_id,
        sequence.index,
        (sampled.token_id,),
        (sampled,) if sequence.sampling.num_logprobs >= 0 else (),
        _prompt_logprobs(sequence) if first else None,
        reason,
        sampled.token_id if ended_by_token and sampled.token_id not in sequence.group.rules.end_ids else None,
        ended_by_token,
        metrics(sequence) if reason is not None else None,
    )


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
        kv_blocks_total=sequence.new_blocks + sequence.reused_blocks,
        kv_blocks_new=sequence.new_blocks,
        kv_blocks_reused=sequence.reused_blocks,
        preemptions=sequence.preemptions,
    )


def _end(sequence: Sequence, token_id: int) -> tuple[FinishReason | None, bool]:
    if token_id in sequence.group.rules.stop_ids:
        return "stop", True
    return ("length" if sequence.num_outputs >= sequence.max_output_tokens else None), False


def _prompt_logprobs(sequence: Sequence) -> tuple[TokenResult | None, ...] | None:
    if sequence.index != 0 or sequence.group.request.params.prompt_logprobs is None:
        return None
    return (None, *sequence.prompt_results)
