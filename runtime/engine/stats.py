"""Statistics of the engine core."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IterationStats:
    """One step. `generation_sequences` computed tokens of their output: the last one, and those that a grammar forced
    before it; `context_sequences` a chunk that begins in their prompt: `context_tokens` in all."""

    iteration: int = 0
    generation_sequences: int = 0
    context_sequences: int = 0
    context_tokens: int = 0
    admitted: int = 0
    preempted: int = 0


@dataclass(frozen=True, slots=True)
class CoreStats:
    """The state of the core between two steps, and totals since it started.

    free + cached + used blocks = total blocks. Cached blocks hold a prefix that no sequence uses now; they are given
    away when free ones run out. `prefix_query_tokens` counts the prompt tokens looked up in the prefix cache,
    `prefix_hit_tokens` those found. `held` sequences wait for a sibling to compute the prompt they share.
    """

    running: int
    waiting: int
    held: int
    free_blocks: int
    cached_blocks: int
    used_blocks: int
    total_blocks: int
    tokens_per_block: int
    max_batch_size: int
    preemptions: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    iterations: int
    prompt_tokens: int
    output_tokens: int
    last_iteration: IterationStats
