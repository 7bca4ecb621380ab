"""Logits of the kit's engines beside those of another target for the same checkpoints; steps in a second thread."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit, Script


def run(kit: Kit, report: Report) -> None:
    engine = kit.the_engine()
    script, expected, limit = read_expected(engine)
    executor = kit.open(engine, script.num_blocks)
    # A server opens an engine in one thread and steps it in another.
    with ThreadPoolExecutor(1) as thread:
        got = np.array(thread.submit(script.logits, executor, range(len(script.prompts))).result())
    executor.close()
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    same = float((got.argmax(-1) == expected.argmax(-1)).mean())
    report.add(engine.name, {"error": error, "limit": limit, "tokens that agree": same})
    if not error <= limit:
        report.fail(f"{engine.name}: an error of {error:.2g} of the greatest logit, where {limit:.2g} is allowed")


def read_expected(engine: Path) -> tuple[Script, Any, float]:
    """The script of an engine, the logits [sequences, steps, vocab] of the other target, and the error allowed."""
    facts = json.loads(engine.with_suffix(".json").read_text())
    expected = np.load(engine.with_suffix(".npy"))
    return Script(facts["prompts"], facts["tokens"], facts["stride"]), expected, float(facts["limit"])
