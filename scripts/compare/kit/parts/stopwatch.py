"""Milliseconds of steps, one at a time and two under way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch

# Of one measurement, about: where steps are far slower than was thought, others are measured all the same.
_MOST_SECONDS = 4.0


def milliseconds(executor: CudaExecutor, parts: Sequence[ScheduledSequence], repeats: int) -> float:
    """The median of a step of `parts`, from its call until its tokens are there. The first ones, in which a step is
    recorded, do not count."""
    step = partial(executor.execute, StepBatch(list(parts)))
    if repeats > 1:
        _median(step, 3)
    return _median(step, repeats)


def milliseconds_overlapped(executor: CudaExecutor, parts: Sequence[ScheduledSequence], repeats: int) -> float:
    """Of a step that is submitted before the one before it is collected, and takes its tokens."""
    following = [replace(part, follows=place) for place, part in enumerate(parts)]
    under_way = executor.submit(StepBatch(list(parts)))

    def step() -> None:
        nonlocal under_way
        behind = executor.submit(StepBatch(following))
        executor.collect(under_way)
        under_way = behind

    found = _median(step, repeats)
    executor.collect(under_way)
    return found


def _median(step: Callable[[], object], repeats: int) -> float:
    times: list[float] = []
    while not times or (len(times) < repeats and sum(times) < _MOST_SECONDS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)
