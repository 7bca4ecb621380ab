"""The time of each phase by operator."""

from __future__ import annotations

import numpy as np

from inflight.benchmark.offline.latency import Workload
from inflight.benchmark.offline.steps import StepTimer, random_prompts
from inflight.errors import EngineError
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.executors.cpu.profile import OperatorProfile, sum_by_kind


def find_profiler(timer: StepTimer) -> CpuExecutor:
    """The executor that times its operators. Raises EngineError for a target without one."""
    if not isinstance(timer.executor, CpuExecutor):
        raise EngineError(f"Engines of target {timer.manifest.target} have no profiler.", "Leave --profile away.")
    return timer.executor


def profile_phases(timer: StepTimer, workload: Workload, rng: np.random.Generator) -> dict[str, list[OperatorProfile]]:
    """One more run of `workload`, profiled: phase -> operators with all layers together, slowest first.

    Raises EngineError for a target without a profiler.
    """
    executor = find_profiler(timer)
    prompts = random_prompts(rng, workload.batch_size, workload.input_len, timer.manifest.model.vocab_size)
    executor.start_profile()
    timer.run_until_decoding(prompts, workload.output_len)
    prefill = executor.profile()
    executor.start_profile()
    timer.finish()
    decode = executor.profile()
    phases = {"prefill": prefill, "decode": decode if workload.output_len > 1 else []}
    return {name: sum_by_kind(operators) for name, operators in phases.items() if operators}
