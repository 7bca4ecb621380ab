"""The table and the plot of scripts/compare/cpu: nothing is above the roof, or the run fails."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from compare.offline.bounds import ARITHMETIC, Shape, bound_seconds, total_work
from compare.offline.cells import CELLS, PRECISIONS
from compare.offline.report import markdown
from compare.offline.results import INFLIGHT, SAME_FILE, Run
from compare.offline.run import main
from compare.shapes import RANDOM_SHAPES, tensor_shapes

from inflight.benchmark.limit_checks import TOLERANCE
from inflight.benchmark.machine_limits import WIDER, read_limits

pytestmark = pytest.mark.unit

THROUGHPUT = [cell for cell in CELLS if cell.kind == "throughput"]


def random_run(rng: np.random.Generator, shares: dict[str, float]) -> Run:
    """A record in which every engine reaches its share of the limit in every cell."""
    sizes = [int(size) for size in rng.integers(10**4, 10**9, 5)]
    mixture = (sizes[4], int(rng.integers(8, 65)), int(rng.integers(1, 9))) if rng.integers(2) else ()
    shape = Shape(2, *sizes[:4], *mixture)
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


def test_engines_of_the_same_file_are_compared_with_each_other(rng: np.random.Generator) -> None:
    pairs = dict(list(SAME_FILE.items())[: int(rng.integers(1, len(SAME_FILE) + 1))])
    shares = {name: float(rng.uniform(0.2, 1)) for name in {*pairs, *SAME_FILE.values()}}
    text = markdown(random_run(rng, shares))
    assert text.count(THROUGHPUT[0].title) == 2 * len(PRECISIONS)
    ratios = " | ".join(f"{shares[ours] / shares[theirs]:.2f}" for ours, theirs in pairs.items())
    assert text.count(f"| {THROUGHPUT[0].title} | {ratios} |") == len(PRECISIONS)
    assert "the same file" not in markdown(random_run(rng, dict.fromkeys(SAME_FILE.values(), 0.5)))


def test_the_weights_of_a_random_shape_are_those_of_its_files(tmp_path: Path) -> None:
    for name, config in RANDOM_SHAPES.items():
        (tmp_path / "config.json").write_text(json.dumps(config))
        shape = Shape.read(tmp_path)
        tensors = {name: dims for name, dims in tensor_shapes(config).items() if len(dims) > 1 and "router" not in name}
        stored = shape.layer_weights + shape.experts * shape.expert_weights + shape.logit_weights
        assert stored == sum(map(math.prod, tensors.values())), name


def test_a_step_meets_as_many_experts_as_random_routers_choose(rng: np.random.Generator) -> None:
    tokens, experts = int(rng.integers(1, 12)), int(rng.integers(8, 40))
    top_k = int(rng.integers(1, 8))
    chosen = np.argsort(rng.random((4000, tokens, experts)), axis=-1)[..., :top_k].reshape(4000, -1)
    met = np.mean([len(np.unique(row)) for row in chosen])
    assert Shape(1, 1, 1, 1, 1, 1, experts, top_k).met_experts(tokens) == pytest.approx(met, rel=0.02)


def test_who_is_within_the_limit_lies_under_the_roof_of_the_plot(rng: np.random.Generator) -> None:
    run = random_run(rng, {INFLIGHT: 1.0})
    for precision in PRECISIONS:
        limits = run.limits_of(precision)
        for cell in THROUGHPUT:
            work, seconds = total_work(run.shape, cell, precision), run.median(precision, cell, INFLIGHT)
            assert seconds is not None
            assert work.flops / seconds / 1e9 <= limits.roof(precision, work.flops / work.bytes) * (1 + 1e-9)
            assert limits.peak(ARITHMETIC[precision]) <= limits.roof(precision, float("inf"))
