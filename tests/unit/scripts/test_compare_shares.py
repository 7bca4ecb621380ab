"""The table and the plot of scripts/compare/cpu: nothing is above the roof, or the run fails."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from compare.offline.bounds import ARITHMETIC, Shape, bound_seconds, total_work
from compare.offline.cells import CELLS, PRECISIONS
from compare.offline.results import INFLIGHT, Run
from compare.offline.run import main

from inflight.benchmark.limit_checks import TOLERANCE
from inflight.benchmark.machine_limits import WIDER, read_limits

pytestmark = pytest.mark.unit

THROUGHPUT = [cell for cell in CELLS if cell.kind == "throughput"]


def random_run(rng: np.random.Generator, shares: dict[str, float]) -> Run:
    """A record in which every engine reaches its share of the limit in every cell."""
    shape = Shape(2, *(int(size) for size in rng.integers(10**4, 10**9, 4)))
    run = Run("2026-01-01", {"processor": "some"}, 2, "random", shape, THROUGHPUT)
    lines = [f"{kind} a {rng.uniform(10, 900):.3f}" for kind in (*WIDER, "read")]
    limits = read_limits("\n".join([*lines, "clock cycles 3"]), 2).as_dict()
    for precision in PRECISIONS:
        run.limits[precision] = [limits]
        run.weights[precision] = dict.fromkeys(shares, "random")
        for cell in THROUGHPUT:
            for name, share in shares.items():
                seconds = bound_seconds(shape, cell, precision, run.limits_of(precision)) / share
                run.add(precision, cell, name, seconds)
    run.versions = {name: name for name in shares}
    return run


def redraw(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    (tmp_path / "run.json").write_text(json.dumps(asdict(run)))
    monkeypatch.setattr("sys.argv", ["cpu", "--redraw", str(tmp_path / "run.json")])
    return main()


@pytest.mark.parametrize("fast", [INFLIGHT, "peer"])
def test_whoever_is_above_the_limit_fails_the_run(
    fast: str, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shares = {INFLIGHT: float(rng.uniform(0.2, 1)), "peer": float(rng.uniform(0.2, 1))}
    assert redraw(random_run(rng, shares), tmp_path, monkeypatch) == 0
    assert "wrong limit" not in capsys.readouterr().out
    above = float(rng.uniform(TOLERANCE + 0.01, 4))
    assert redraw(random_run(rng, {**shares, fast: above}), tmp_path, monkeypatch) == 1
    shown = capsys.readouterr()
    assert f"{fast}: {above:.0%} of what" in shown.err
    ours = [line.split("|")[-3] for line in shown.out.splitlines() if line.startswith("| prefill")]
    assert len(ours) == len(PRECISIONS)
    assert all(("wrong limit" in text) == (fast == INFLIGHT) for text in ours)
    assert fast != INFLIGHT or not any("✓" in text for text in ours)


def test_who_is_within_the_limit_lies_under_the_roof_of_the_plot(rng: np.random.Generator) -> None:
    run = random_run(rng, {INFLIGHT: 1.0})
    for precision in PRECISIONS:
        limits = run.limits_of(precision)
        for cell in THROUGHPUT:
            work, seconds = total_work(run.shape, cell, precision), run.median(precision, cell, INFLIGHT)
            assert seconds is not None
            assert work.flops / seconds / 1e9 <= limits.roof(precision, work.flops / work.bytes) * (1 + 1e-9)
            assert limits.peak(ARITHMETIC[precision]) <= limits.roof(precision, float("inf"))
