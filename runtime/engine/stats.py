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

    @property
    def tokens(self) -> int:
        """A generating sequence computes one; the others share the tokens of the context."""
        return self.generation_sequences + self.context_tokens


@dataclass(slots=True)
class OffloadCounts:
    """KV cache blocks outside of the cache. `blocks` are there now, of `slots`; the others count since the start:
    blocks and bytes that were copied out and back, and preempted sequences that were computed again since that was
    predicted to be faster than copying."""

    slots: int = 0
    blocks: int = 0
    blocks_written: int = 0
    bytes_written: int = 0
    blocks_read: int = 0
    bytes_read: int = 0
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class CoreStats:
    """The state of the core between two steps, and totals since it started.

    free + cached + used blocks = total blocks. Cached blocks hold a prefix that no sequence uses now; they are given
    away when free ones run out. `prefix_query_tokens` counts the prompt tokens looked up in the prefix cache,
    `prefix_hit_tokens` those found, of which `offload_hit_tokens` came back from where blocks are offloaded to.
    `held` sequences wait for a sibling to compute the prompt they share. `offload`: None where nothing is.
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
    offload_hit_tokens: int = 0
    offload: OffloadCounts | None = None
