"""A step as the scheduler planned it, with the sequences that wait for its results."""

from __future__ import annotations

from dataclasses import dataclass

from inflight.runtime.engine.stats import IterationStats
from inflight.runtime.scheduler.sequence import Sequence
from inflight.runtime.scheduler.step import StepBatch


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """A step and the sequences it is made of, in the same order: decodes first, then chunks. `ahead`: it was scheduled
    while the step before it ran, a token of each."""

    batch: StepBatch
    sequences: list[Sequence]
    stats: IterationStats
    ahead: bool = False
