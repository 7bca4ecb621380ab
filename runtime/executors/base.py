"""The interface between the runtime and a target."""

from __future__ import annotations

from typing import Protocol

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.scheduler.step import StepBatch, StepOutput


class Executor(Protocol):
    """A loaded engine. It does not know requests, scheduling or text.

    `num_blocks` is the size of the KV block pool; block ids run from 0 to num_blocks - 1. An executor keeps no state
    between steps but the cache itself, so a sequence may be dropped without telling it.
    """

    manifest: EngineManifest
    num_blocks: int

    def execute(self, batch: StepBatch) -> StepOutput:
        """Run one step. Raises EngineError when the batch breaks a limit; the cache is then unchanged."""
        ...

    def close(self) -> None:
        """Free threads and memory. Calling it twice is harmless."""
        ...
