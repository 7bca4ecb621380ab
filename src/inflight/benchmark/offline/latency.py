"""One batch from prompt to last token, repeated: the measurement of `vllm bench latency`, by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from inflight.benchmark.distribution import mean, percentile, rank_name
from inflight.benchmark.limit_checks import Share
from inflight.benchmark.machine_limits import MachineLimits
from inflight.benchmark.offline.phases import Phase, phase_shares, split_phases
from inflight.benchmark.offline.steps import Step, StepTimer, random_prompts
from inflight.benchmark.roofline import Roofline
from inflight.runtime.executors.cpu.profile import OperatorProfile

_PERCENTILES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True, slots=True)
class Workload:
    """`batch_size` prompts of `input_len` random tokens, `output_len` tokens each."""

    batch_size: int
    input_len: int
    output_len: int


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """`latencies`: seconds from the first step to the last token, per iteration. `profiles`: phase -> its operators,
    slowest first, where a profile was asked for."""

    workload: Workload
    latencies: Sequence[float]
    prefill: Phase
    decode: Phase
    profiles: Mapping[str, Sequence[OperatorProfile]] = field(default_factory=dict)

    def shares(self, limits: MachineLimits) -> list[Share]:
        """Of each phase that has steps."""
        workload = self.workload
        after = f" of batch {workload.batch_size}, {workload.input_len} + {workload.output_len} tokens"
        return phase_shares({"prefill": self.prefill, "decode": self.decode}, limits, after)

    def as_dict(self) -> dict[str, Any]:
        """avg_latency, latencies and percentiles as `vllm bench latency` writes them, and the phases."""
        return {
            "batch_size": self.workload.batch_size,
            "input_len": self.workload.input_len,
            "output_len": self.workload.output_len,
            "avg_latency": mean(self.latencies),
            "latencies": list(self.latencies),
            "percentiles": {rank_name(rank): percentile(self.latencies, rank) for rank in _PERCENTILES},
            "prefill": self.prefill.as_dict(),
            "decode": self.decode.as_dict(),
            "profiles": {name: [asdict(each) for each in operators] for name, operators in self.profiles.items()},
        }


def measure_latency(
    timer: StepTimer, workload: Workload, *, warmup: int, iterations: int, rng: np.random.Generator
) -> list[list[Step]]:
    """The steps of every iteration after the warm-up; prompts are fresh each time."""
    runs = []
    for iteration in range(warmup + iterations):
        prompts = random_prompts(rng, workload.batch_size, workload.input_len, timer.manifest.model.vocab_size)
        steps = timer.run(prompts, workload.output_len)
        if iteration >= warmup:
            runs.append(steps)
    return runs


def summarize_latency(runs: Sequence[Sequence[Step]], workload: Workload, roofline: Roofline | None) -> LatencyResult:
    """`roofline` None: the limits are unknown."""
    every_step = [step for steps in runs for step in steps]
    prefill, decode = split_phases(every_step, len(runs) * workload.batch_size * workload.input_len, roofline)
    return LatencyResult(workload, [sum(step.seconds for step in steps) for steps in runs], prefill, decode)
