"""Milliseconds of whole steps of the kit's engines, at several batch sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from compare.kit.parts.tokens import read_expected
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

_REPEATS = 200


def run(kit: Kit, report: Report) -> None:
    for engine in kit.engines():
        script, _, _ = read_expected(engine)
        executor = kit.open(engine, script.num_blocks)
        script.logits(executor, range(len(script.prompts)))
        for batch in range(1, len(script.prompts) + 1):
            parts = [
                ScheduledSequence(each, [1], len(script.prompts[each]), script.blocks(each), RowSampling(), True, 1)
                for each in range(batch)
            ]
            repeats = 1 if kit.interpreted else _REPEATS
            name = f"{engine.name}, batch {batch}"
            report.add(f"{name}, ms", _median_ms(partial(executor.execute, StepBatch(parts)), repeats))
            if batch == len(script.prompts) or not kit.interpreted:
                report.add(f"{name}, two steps under way, ms", _ms_overlapped(executor, parts, repeats))
        executor.close()


def _median_ms(step: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)


def _ms_overlapped(executor: CudaExecutor, parts: list[ScheduledSequence], repeats: int) -> float:
    """Of a step that is submitted before the one before it is collected, and takes its tokens."""
    following = [replace(part, follows=place) for place, part in enumerate(parts)]
    under_way = executor.submit(StepBatch(parts))

    def step() -> None:
        nonlocal under_way
        behind = executor.submit(StepBatch(following))
        executor.collect(under_way)
        under_way = behind

    found = _median_ms(step, repeats)
    executor.collect(under_way)
    return found
