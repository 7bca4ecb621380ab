"""When a waiting sequence may start: the two capacity policies, under the names that TensorRT-LLM gave them, and TGI's
rule of how many must wait."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Literal, NamedTuple

from inflight.errors import EngineError
from inflight.runtime.kv_cache.block_tables import KvBlocks
from inflight.runtime.scheduler.sequence import Sequence, Status
from inflight.sampling_parameters import to_float32

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


class Waiting(NamedTuple):
    """TGI's --waiting-served-ratio and --max-waiting-tokens, with its defaults: while some run, others start only when
    `served_ratio` times as many wait, or when none has started for `max_tokens` steps.
    """

    served_ratio: float = 0.3
    max_tokens: int = 20

    def enough(self, waiting: int, running: int, free_slots: int, steps: int) -> bool:
        """Whether waiting sequences may start, `steps` steps after others did. Those without a slot do not count, as in
        TGI, where a batch starts whole or not; the product is rounded as its is."""
        wanted = to_float32(running * to_float32(self.served_ratio))
        return running == 0 or steps >= self.max_tokens or min(waiting, free_slots) > wanted - 1  # TGI rounds down


def waiting_rule(served_ratio: float | None, max_tokens: int | None) -> Waiting | None:
    """What is not given is TGI's default; None: neither is given. Raises EngineError for a ratio that is none."""
    if served_ratio is not None and not 0 <= served_ratio < inf:
        raise EngineError(f"The waiting-served-ratio is {served_ratio}.", "Give a number, 0 or more.")
    given = {"served_ratio": served_ratio, "max_tokens": max_tokens}
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Waiting(**known) if known else None
