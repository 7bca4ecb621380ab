"""How many sequences run and wait at most: an engine's limits, and what a configuration makes of them."""

from __future__ import annotations

from inflight.engine_format.manifest import Limits
from inflight.errors import EngineError, RequestError


def most_running(limits: Limits) -> int:
    """How many sequences an engine runs at once, where the configuration asks for no fewer."""
    return min(limits.max_batch_size, limits.max_num_tokens, limits.max_logit_rows)


def check_ever_queued(count: int, max_running: int, max_queue_size: int) -> None:
    """Raises RequestError when so many sequences of one request fit into no batch and queue of these sizes, even empty
    ones. A `max_queue_size` of 0 is no bound."""
    if max_queue_size and count > max_queue_size + max_running:
        raise RequestError(
            f"The request has {count} sequences; the batch takes {max_running} and the queue {max_queue_size}.",
            "Ask for fewer completions or prompts at once.",
        )


def limited(name: str, wanted: int | None, most: int) -> int:
    """`wanted`, or `most` where nothing is. Raises EngineError where it is more than that."""
    if wanted is not None and wanted > most:
        raise EngineError(f"{name} is {wanted}, but the engine was built for {most}.", f"Ask for {most} or less.")
    return wanted or most
