"""A share above the limit is a fault of the limit: the run fails and says which."""

from __future__ import annotations

import re

import numpy as np
import pytest
from msgspec.structs import replace

from inflight.benchmark.limit_checks import TOLERANCE, FloatPeaks, LimitExceeded, Share, check_shares
from inflight.benchmark.machine_limits import WIDER, MachineLimits, read_limits
from inflight.benchmark.offline.latency import Workload, summarize_latency
from inflight.benchmark.offline.steps import Step
from inflight.benchmark.roofline import Roofline
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.null.executor import null_manifest

pytestmark = pytest.mark.unit


def random_limits(rng: np.random.Generator) -> MachineLimits:
    lines = [f"{kind} way{i} {rng.uniform(1, 999):.3f}" for kind in (*WIDER, "read") for i in range(rng.integers(1, 4))]
    return read_limits("\n".join([*rng.permutation(lines), "clock cycles 3.1"]), int(rng.integers(1, 9)))


def test_a_type_is_as_fast_as_its_fastest_mix_or_a_wider_type(rng: np.random.Generator) -> None:
    limits = random_limits(rng)
    for place, dtype in enumerate(WIDER):
        allowed = [rate for name, rate in limits.mixes.items() if name.split()[0] in WIDER[place:]]
        assert limits.peaks[dtype] == max(allowed)
    again = limits.at_best(random_limits(rng))
    assert all(again.peaks[dtype] >= limits.peaks[dtype] for dtype in WIDER) and again.read >= limits.read


@pytest.mark.parametrize("by", ["memory", "arithmetic"])
def test_a_step_faster_than_its_limit_fails_the_run_with_the_limits_name(by: str, rng: np.random.Generator) -> None:
    limits = random_limits(rng)
    roofline = Roofline(bounded_by(by), limits)
    named = f"reading {limits.read / 1e9:.1f} GB/s" if by == "memory" else f"the arithmetic peak ({limits.peaks_text})"

    def shares(share: float) -> list[Share]:
        step = Step(roofline.step(3, 3, 0).seconds / share, 0.0, 3, 3, 3, 0, True)
        return summarize_latency([[step]], Workload(3, 8, 1), roofline).shares(limits)

    check_shares(shares(float(rng.uniform(0.01, TOLERANCE))))
    with pytest.raises(LimitExceeded, match=rf"decode of batch 3, 8 \+ 1 tokens: \d+% of what {re.escape(named)}"):
        check_shares(shares(float(rng.uniform(TOLERANCE, 4)) + 1e-6))


def bounded_by(limit: str) -> EngineManifest:
    """An engine with so much of one kind of work that the other never counts."""
    manifest = null_manifest()
    moved, operations = (10**14, 1) if limit == "memory" else (1, 10**14)
    work = replace(manifest.work, layer_flops_per_token=operations, weight_bytes_per_step=moved)
    return replace(manifest, work=work)


def test_only_what_is_above_is_named() -> None:
    shares = [Share("slow", 0.4, "a"), Share("fast", 1.83, "the bandwidth"), Share("noise", 1.02, "b")]
    with pytest.raises(LimitExceeded, match="fast: 183% of what the bandwidth allows") as raised:
        check_shares(shares)
    assert "slow" not in raised.value.message and "noise" not in raised.value.message
    check_shares([Share(each.what, min(each.share, 1.0), each.limit) for each in shares])


@pytest.mark.parametrize(
    ("peaks", "word"),
    [
        (FloatPeaks(43e9, 88e9, 90e9), "too low"),
        (FloatPeaks(43e9, None, 90e9), "may be too low"),
        (FloatPeaks(90e9, 20e9, 90e9), "did something else run"),
        (FloatPeaks(90e9, 88e9, 95e9), None),
        (FloatPeaks(90e9, None, 95e9), None),
    ],
)
def test_ways_to_know_the_peak_that_disagree_are_told(peaks: FloatPeaks, word: str | None) -> None:
    warnings = peaks.warnings()
    assert bool(warnings) == (word is not None)
    assert word is None or any(word in warning for warning in warnings)
    assert "90" in str(peaks) or "95" in str(peaks)
