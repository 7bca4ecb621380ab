"""The steps that an executor has: one that is waited for, and where its device goes on alone, one behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inflight.runtime.executors.base import Executor, overlaps_steps, revokes_steps
from inflight.runtime.scheduler.scheduled_step import ScheduledStep
from inflight.runtime.scheduler.step import StepOutput


class Submissions:
    """Submits to `executor` and collects, in order; one that does not overlap steps executes them. Whoever calls lets
    one call at a time in."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._overlapping = overlaps_steps(executor)
        self._revoking = revokes_steps(executor)
        # Steps, each with what `submit` returned for it.
        self._under_way: list[tuple[ScheduledStep, Any]] = []

    @property
    def first(self) -> ScheduledStep | None:
        """The step that was submitted first and not dropped."""
        return self._under_way[0][0] if self._under_way else None

    def compute(self, step: ScheduledStep, follow: Callable[[], ScheduledStep | None]) -> StepOutput:
        """The output of `step`, which is the first, or is submitted now; where the executor takes it, the step that
        `follow` returns is submitted meanwhile. Errors of the executor are passed on."""
        if self._overlapping is None:
            return self._executor.execute(step.batch)
        if not self._under_way:
            self._under_way.append((step, self._overlapping.submit(step.batch)))
        if (following := follow()) is not None:
            self._under_way.append((following, self._overlapping.submit(following.batch)))
        return self._overlapping.collect(self._under_way[0][1])

    def drop_first(self) -> None:
        """Its output has been taken."""
        self._under_way = self._under_way[1:]

    def revoke(self) -> None:
        """Drop what is under way, where the executor can: nobody needs it, or it is to be scheduled again."""
        if self._under_way and self._revoking is not None:
            self._revoking.revoke()
            self._under_way = []

    def drop_all(self) -> None:
        """Nobody waits for anything any more."""
        self.revoke()
        self._under_way = []
