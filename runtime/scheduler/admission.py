"""When a waiting sequence may start: the two capacity policies, under the names that TensorRT-LLM gave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from inflight.runtime.kv_cache.block_tables import KvBlocks
from inflight.runtime.scheduler.sequence import Sequence, Status

Policy = Literal["guaranteed_no_evict", "max_utilization"]

# Whether a sequence may start with a cached prefix (its blocks), and have so many tokens after its first chunk.
Admits = Callable[[KvBlocks, Sequence, list[int], int], bool]


def guaranteed_no_evict(blocks: KvBlocks, sequence: Sequence, prefix: list[int], num_tokens: int) -> bool:
    """Whether the worst case of the sequence fits beside the worst cases of all that were admitted.

    Compares the blocks still to be taken (`promised`) with the blocks that no sequence uses. A shared block is in no
    promise and not available while any sequence refers to it, even after the one that wrote it has ended. Each event
    keeps promised <= available: taking a block lowers both by one, an end lowers the promise and never the available.
    """
    worst = blocks.blocks_for(sequence.max_computed) - len(prefix)
    return blocks.promised + worst <= blocks.available_beside(prefix)


def max_utilization(blocks: KvBlocks, sequence: Sequence, prefix: list[int], num_tokens: int) -> bool:
    """Whether the next chunk fits. After a preemption everything that was computed must fit, or it would thrash."""
    resumed = sequence.status is Status.PREEMPTED
    num_tokens = len(sequence.token_ids) if resumed else num_tokens
    return blocks.blocks_for(num_tokens) - len(prefix) <= blocks.available_beside(prefix)


ADMISSION: dict[Policy, Admits] = {"guaranteed_no_evict": guaranteed_no_evict, "max_utilization": max_utilization}
