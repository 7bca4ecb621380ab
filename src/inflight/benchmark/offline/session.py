"""A whole offline benchmark: the machine's limits, the measurement, the limits again, one report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from inflight import __version__
from inflight.benchmark.limit_checks import FloatPeaks, Share, check_shares, float_peaks
from inflight.benchmark.machine import machine_facts
from inflight.benchmark.machine_limits import MachineLimits, UnknownLimits, measure_limits
from inflight.benchmark.offline.latency import LatencyResult, Workload, measure_latency, summarize_latency
from inflight.benchmark.offline.profile import find_profiler, profile_phases
from inflight.benchmark.offline.steps import StepTimer, random_prompts
from inflight.benchmark.offline.throughput import ThroughputResult, summarize_throughput
from inflight.benchmark.roofline import Roofline
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError
from inflight.machine.resources import usable_cores


class Result(Protocol):
    def as_dict(self) -> dict[str, Any]: ...
    def shares(self, limits: MachineLimits) -> list[Share]: ...


R = TypeVar("R", bound=Result)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report(Generic[R]):
    """`limits` None: unknown, and `limits_unknown` says why. `float_peaks`: float32's beside other ways to know it."""

    manifest: EngineManifest
    threads: int
    limits: MachineLimits | None
    limits_unknown: str | None
    float_peaks: FloatPeaks | None
    results: Sequence[R]

    def check(self) -> None:
        """Raises LimitExceeded when a result is above a limit of the machine: the limit is wrong then."""
        if self.limits is not None:
            check_shares([share for result in self.results for share in result.shares(self.limits)])

    def as_dict(self) -> dict[str, Any]:
        return {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "inflight_version": __version__,
            "machine": machine_facts() | {"threads": self.threads},
            "model": self.manifest.source.model,
            "target": self.manifest.target,
            "precision": sorted({module.weights for module in self.manifest.precision.values()}),
            "limits": None if self.limits is None else self.limits.as_dict(),
            "limits_unknown": self.limits_unknown,
            "limits_warnings": [] if self.float_peaks is None else self.float_peaks.warnings(),
            "results": [result.as_dict() for result in self.results],
        }


def run_latency(
    timer: StepTimer, workloads: Sequence[Workload], *, warmup: int, iterations: int, seed: int, profile: bool = False
) -> Report[LatencyResult]:
    """Measure every workload; with `profile`, then each once more with its operators timed. Raises EngineError, before
    anything runs, when one does not fit the engine or its target has no profiler."""
    for workload in workloads:
        _check_fits(timer, workload)
    if profile:
        find_profiler(timer)
    rng = np.random.default_rng(seed)

    def measure() -> list[Any]:
        return [measure_latency(timer, each, warmup=warmup, iterations=iterations, rng=rng) for each in workloads]

    runs, limits, unknown = _between_limits(measure, timer)
    roofline = None if limits is None else Roofline(timer.manifest, limits)
    results = [summarize_latency(run, each, roofline) for run, each in zip(runs, workloads, strict=True)]
    if profile:
        results = [replace(each, profiles=profile_phases(timer, each.workload, rng)) for each in results]
    return _report(timer, limits, unknown, results)


def run_throughput(
    timer: StepTimer, num_prompts: int, input_len: int, output_len: int, *, seed: int
) -> Report[ThroughputResult]:
    """Measure `num_prompts` prompts after a short warm-up. Raises EngineError when they do not fit the engine."""
    _check_fits(timer, Workload(1, input_len, output_len))
    rng = np.random.default_rng(seed)
    vocab_size = timer.manifest.model.vocab_size
    timer.run(random_prompts(rng, min(num_prompts, 8), input_len, vocab_size), min(output_len, 4))
    prompts = random_prompts(rng, num_prompts, input_len, vocab_size)
    steps, limits, unknown = _between_limits(lambda: timer.run(prompts, output_len), timer)
    roofline = None if limits is None else Roofline(timer.manifest, limits)
    result = summarize_throughput(steps, num_prompts, num_prompts * input_len, roofline)
    return _report(timer, limits, unknown, [result])


def _report(timer: StepTimer, limits: MachineLimits | None, unknown: str | None, results: Sequence[R]) -> Report[R]:
    peaks = None if limits is None else float_peaks(limits)
    return Report(timer.manifest, _threads(timer), limits, unknown, peaks, results)


def _between_limits(measure: Callable[[], T], timer: StepTimer) -> tuple[T, MachineLimits | None, str | None]:
    """The result of `measure`, and the machine's limits at their best before and after it: its speed drifts. Reading is
    that of the engine's weights, which the caches may hold from one step to the next."""
    what = _threads(timer), timer.manifest.work.weight_bytes_per_step
    try:
        before = measure_limits(*what)
    except UnknownLimits as error:
        return measure(), None, str(error)
    measured = measure()
    try:
        return measured, before.at_best(measure_limits(*what)), None
    except UnknownLimits:
        return measured, before, None


def _check_fits(timer: StepTimer, workload: Workload) -> None:
    limits = timer.manifest.limits
    if workload.input_len + workload.output_len > limits.max_seq_len:
        raise EngineError(
            f"{workload.input_len} prompt tokens and {workload.output_len} more are above the engine's max_seq_len, "
            f"{limits.max_seq_len}.",
            "Pass a smaller --input-len or --output-len.",
        )
    if workload.batch_size > limits.max_batch_size:
        raise EngineError(
            f"A batch of {workload.batch_size} is above the engine's max_batch_size, {limits.max_batch_size}.",
            "Pass a smaller --batch-size, or measure the queue too: inflight bench throughput.",
        )


def _threads(timer: StepTimer) -> int:
    threads: int = getattr(timer.executor, "threads", usable_cores())
    return threads
