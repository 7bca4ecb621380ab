"""Milliseconds of whole steps of the kit's engines, at several batch sizes."""

from __future__ import annotations

import statistics
import time

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit, Script
from compare.kit.parts.tokens import read_expected
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

_REPEATS = 200


def run(kit: Kit, report: Report) -> None:
    for engine in kit.engines():
        script, _, _ = read_expected(engine)
        executor = kit.open(engine, script.num_blocks)
        script.logits(executor, range(len(script.prompts)))
        for batch in range(1, len(script.prompts) + 1):
            parts = [
                ScheduledSequence(each, [1], len(script.prompts[each]), _blocks(script, each), RowSampling(), True, 1)
                for each in range(batch)
            ]
            times = []
            for _ in range(1 if kit.interpreted else _REPEATS):
                start = time.perf_counter()
                executor.execute(StepBatch(parts))
                times.append(time.perf_counter() - start)
            report.add(f"{engine.name}, batch {batch}, ms", round(1e3 * statistics.median(times), 3))
        executor.close()


def _blocks(script: Script, each: int) -> list[int]:
    return list(range(each * script.stride, (each + 1) * script.stride))
