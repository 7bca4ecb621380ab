"""How many KV blocks an engine gets when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError
from inflight.runtime.loading.rebuild import rebuild_command


@dataclass(frozen=True, slots=True)
class KvCacheBudget:
    """The most that the KV cache may take; the smallest of those given wins.

    fraction: of the memory that weights and workspace leave free.
    """

    bytes: int | None = None
    tokens: int | None = None
    fraction: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise EngineError(f"The KV cache fraction is {self.fraction}; it must be above 0 and at most 1.")
        for name, value in (("bytes", self.bytes), ("tokens", self.tokens)):
            if value is not None and value < 1:
                raise EngineError(f"The KV cache is limited to {value} {name}; it must be at least 1.")


def blocks_per_sequence(manifest: EngineManifest) -> int:
    """Blocks of the longest sequence that the engine can hold."""
    return -(-manifest.limits.max_seq_len // manifest.kv_cache.tokens_per_block)


def plan_num_blocks(manifest: EngineManifest, budget: KvCacheBudget, available_bytes: int, directory: Path) -> int:
    """Blocks within `budget`, and no more than a full batch of the longest sequences can use.

    `available_bytes` is the machine's free memory before the engine is loaded. Raises EngineError, with the largest
    max_seq_len that would fit, when not even one sequence of max_seq_len does.
    """
    cache = manifest.kv_cache
    memory = manifest.memory
    free = max(0, available_bytes - memory.weights_bytes - memory.workspace_bytes)
    choices = [int(free * budget.fraction) // cache.bytes_per_block]
    if budget.bytes is not None:
        choices.append(budget.bytes // cache.bytes_per_block)
    if budget.tokens is not None:
        choices.append(-(-budget.tokens // cache.tokens_per_block))
    blocks = min(choices)
    needed = blocks_per_sequence(manifest)
    if blocks < needed:
        _refuse(manifest, directory, blocks, free)
    return min(blocks, _most_used(manifest))


def _most_used(manifest: EngineManifest) -> int:
    """Blocks of a full batch of the longest sequences; of an engine that keeps none from step to step, of a step."""
    limits, size = manifest.limits, manifest.kv_cache.tokens_per_block
    full = limits.max_batch_size * blocks_per_sequence(manifest)
    return full if manifest.pooling is UNSET else min(full, limits.max_num_tokens // size + limits.max_batch_size)


def _refuse(manifest: EngineManifest, directory: Path, blocks: int, free: int) -> None:
    cache = manifest.kv_cache
    needed = blocks_per_sequence(manifest)
    fits = blocks * cache.tokens_per_block
    message = (
        f"The KV cache gets {blocks} blocks of {cache.tokens_per_block} tokens, and one sequence of max_seq_len "
        f"{manifest.limits.max_seq_len} needs {needed} ({needed * cache.bytes_per_block:,} bytes); "
        f"weights and workspace leave {free:,} bytes free."
    )
    if not fits:
        raise EngineError(message, "No max_seq_len fits: give the engine more memory.")
    command = rebuild_command(manifest.recipe, manifest.target, directory, max_seq_len=fits)
    hint = f"The largest max_seq_len that fits is {fits}. Allow the cache more memory, or build again: {command}"
    raise EngineError(message, hint)
