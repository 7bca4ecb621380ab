"""An engine that fails when a sequence has grown to some length."""

from __future__ import annotations

from inflight.runtime.executors.null.executor import NullExecutor
from inflight.runtime.scheduler.step import StepBatch, StepOutput

CAUSE = "the accelerator caught fire"

# For the process of an engine: its null executor fails from then on.
FAILING = f"""
from inflight.runtime.executors.null.executor import NullExecutor

execute = NullExecutor.execute

def execute_or_fail(self, batch):
    if any(sequence.start > 200 for sequence in batch.sequences):
        raise RuntimeError("{CAUSE}")
    return execute(self, batch)

NullExecutor.execute = execute_or_fail
"""


class FailingExecutor(NullExecutor):
    """Fails when a sequence has grown to some length."""

    def execute(self, batch: StepBatch) -> StepOutput:
        if any(sequence.start > 200 for sequence in batch.sequences):
            raise RuntimeError(CAUSE)
        return super().execute(batch)
