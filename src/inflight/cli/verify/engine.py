"""Running an engine with every logit row kept, for `inflight verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from inflight.errors import EngineError
from inflight.runtime.executors.base import Executor
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch, StepOutput

Logits = npt.NDArray[np.float32]


@runtime_checkable
class LogitsExecutor(Protocol):
    """An Executor that can also hand out the logits [logit rows, vocab] of a step."""

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, Logits]: ...


@dataclass(frozen=True, slots=True)
class EngineRun:
    """A prompt and its greedy continuation; `logits` [len(token_ids) - 1, vocab] are those after each token but the
    last, so that row i decides about token i + 1.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    logits: Logits

    @property
    def inputs(self) -> tuple[int, ...]:
        """The tokens that the rows of logits are those of."""
        return self.token_ids[:-1]


def run_greedily(executor: Executor, prompt: Sequence[int], max_tokens: int) -> EngineRun:
    """Run one prompt alone and continue it by `max_tokens` most likely tokens, end tokens like any other.

    Raises EngineError for a target that does not hand out logits, or when the sequence does not fit the engine.
    """
    if not isinstance(executor, LogitsExecutor):
        raise EngineError(f"Target {executor.manifest.target} hands out no logits, so there is nothing to compare.")
    limits, kv = executor.manifest.limits, executor.manifest.kv_cache
    length = len(prompt) + max_tokens
    blocks = -(-length // kv.tokens_per_block)
    if length > limits.max_seq_len or blocks > executor.num_blocks:
        raise EngineError(
            f"A prompt of {len(prompt)} tokens and {max_tokens} more do not fit the engine (max_seq_len "
            f"{limits.max_seq_len}, {executor.num_blocks} KV blocks of {kv.tokens_per_block}).",
            "Give a shorter --prompt or a smaller --max-tokens.",
        )
    tokens, kept, computed = list(prompt), [], 0
    step = min(limits.max_num_tokens, limits.max_logit_rows)
    while len(tokens) < length:
        sequence = _next_chunk(tokens, computed, step, range(blocks))
        output, logits = executor.execute_with_logits(StepBatch((sequence,)))
        kept.append(logits)
        computed += len(sequence.token_ids)
        sampled = output.results[0].sampled
        if sampled is not None:
            tokens.append(sampled.token_id)
    return EngineRun(tuple(tokens), len(prompt), np.concatenate(kept))


def _next_chunk(tokens: list[int], computed: int, step: int, blocks: range) -> ScheduledSequence:
    """The next tokens to compute. Scoring the token after each row makes every row a logit row."""
    chunk = tokens[computed : computed + step]
    end = computed + len(chunk)
    last = end == len(tokens)
    arguments: dict[str, Any] = {"sampling": RowSampling(), "sample_last": True} if last else {}
    return ScheduledSequence(
        slot=0,
        token_ids=tuple(chunk),
        start=computed,
        block_table=tuple(blocks),
        prompt_length=len(tokens),
        prompt_targets=tuple(tokens[computed + 1 : end + 1]),
        prompt_num_logprobs=0,
        **arguments,
    )
