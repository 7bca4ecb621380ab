"""An engine core on the null target, with each step's batch kept for a look."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput


class RecordingExecutor(NullExecutor):
    """A null executor that keeps the (start, length) of each sequence of each step, by slot."""

    steps: list[dict[int, tuple[int, int]]]

    def execute(self, batch: StepBatch) -> StepOutput:
        output = super().execute(batch)
        self.steps.append({item.slot: (item.start, len(item.token_ids)) for item in batch.sequences})
        return output


class Driver:
    """A core and everything it published, by (request id, index)."""

    def __init__(self, num_blocks: int = 64, config: SchedulerConfig | None = None, **limits: Any) -> None:
        self.executor = RecordingExecutor(null_manifest(**limits), num_blocks)
        self.executor.steps = []
        self.core = EngineCore(self.executor, config)
        self.deltas: dict[tuple[str, int], list[TokenDelta]] = defaultdict(list)

    def add(self, name: str, prompt: int | tuple[int, ...], priority: int = 0, **params: Any) -> None:
        """Queue a request; a number as `prompt` is the length of a prompt that no other request shares."""
        if isinstance(prompt, int):
            prompt = tuple((len(name) + 17 * ord(name[-1]) + place) % 251 for place in range(prompt))
        ends = params.pop("end_token_ids", ())
        self.core.add_request(Request(name, prompt, SamplingParams(**{"seed": 1, **params}), ends, priority))

    def step(self) -> list[TokenDelta]:
        deltas = self.core.step()
        for delta in deltas:
            self.deltas[delta.request_id, delta.index].append(delta)
        return deltas

    def run(self) -> None:
        while self.core.has_unfinished():
            self.step()

    def tokens(self, name: str, index: int = 0) -> list[int]:
        return [token for delta in self.deltas[name, index] for token in delta.token_ids]

    def last(self, name: str, index: int = 0) -> TokenDelta:
        return self.deltas[name, index][-1]

    def finish_order(self) -> list[str]:
        """Names in the order of their last deltas' times."""
        ended = [
            (deltas[-1].metrics.last_token_ns, name) for (name, _), deltas in self.deltas.items() if deltas[-1].metrics
        ]
        return [name for _, name in sorted(ended)]
