"""Bits of a sequence alone, in company, and with its prompt in chunks: they must be the same, each time."""

from __future__ import annotations

import numpy as np

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from compare.kit.parts.tokens import read_expected

_REPEATS, _REPEATS_INTERPRETED = 50, 1
# Tokens of a step: products have tiles of 16 and of 64 rows for as many, of 128 for a long prompt whole.
_CHUNKS = (5, 50)


def run(kit: Kit, report: Report) -> None:
    engine = kit.the_engine()
    script, _, _ = read_expected(engine)
    executor = kit.open(engine, script.num_blocks)
    alone = script.logits(executor, [0])[0]
    differing: dict[str, int] = {}
    repeats = _REPEATS_INTERPRETED if kit.interpreted else _REPEATS
    for _ in range(repeats):
        everyone = range(len(script.prompts))
        ways = {
            "in company": script.logits(executor, everyone)[0],
            "again": alone if kit.interpreted else script.logits(executor, [0])[0],
        }
        for size in _CHUNKS:
            if size < len(script.prompts[0]):
                ways[f"prompt in chunks of {size}"] = script.logits(executor, [0], chunk=size)[0]
        for name, logits in ways.items():
            same = all(np.array_equal(*pair) for pair in zip(alone, logits, strict=True))
            differing[name] = differing.get(name, 0) + (not same)
    executor.close()
    report.add(engine.name, {"repeats": repeats, "differing": differing})
    for name, count in differing.items():
        if count:
            report.fail(f"{engine.name}: other bits {name}, {count} of {repeats} times")
