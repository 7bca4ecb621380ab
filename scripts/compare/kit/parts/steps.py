"""Milliseconds of whole steps of the kit's engines, at several batch sizes."""

from __future__ import annotations

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from compare.kit.parts.stopwatch import milliseconds, milliseconds_overlapped
from compare.kit.parts.tokens import read_expected
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence

_REPEATS = 200


def run(kit: Kit, report: Report) -> None:
    engine, repeats = kit.the_engine(), 1 if kit.interpreted else _REPEATS
    script, _, _ = read_expected(engine)
    executor = kit.open(engine, script.num_blocks)
    script.logits(executor, range(len(script.prompts)))
    for batch in range(1, len(script.prompts) + 1):
        parts = [
            ScheduledSequence(each, [1], len(script.prompts[each]), script.blocks(each), RowSampling(), True, 1)
            for each in range(batch)
        ]
        name = f"{engine.name}, batch {batch}"
        report.add(f"{name}, ms", milliseconds(executor, parts, repeats))
        if batch == len(script.prompts) or not kit.interpreted:
            report.add(f"{name}, two steps under way, ms", milliseconds_overlapped(executor, parts, repeats))
    executor.close()
