"""What a step costs in Python, without a model: schedule and publish alone, and with the cpu target's marshalling.

python scripts/compare/shares/step_cost.py [--sequences 1,64,256,1000] [--steps 200] [--engine DIR] [--json FILE]

All sequences decode; the executor answers at once, and its own time is taken off. "with marshalling" also fills and
reads the arrays of a compiled engine: a token for every sequence, and a new block once in 32 steps.

With an engine (of the cpu target), its own steps of as many sequences are measured too, one after the other, and how
long its operators stand still in each. That is the same Python and the way into the library and out again, but what
they need is in no cache any more: the weights have just passed through all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.base import Executor
from inflight.runtime.executors.cpu.buffers import StepBuffers
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import StepBatch, StepOutput

VOCAB_SIZE, MAX_SEQ_LEN, TOKENS_PER_BLOCK = 151_936, 2048, 32
LONGEST_PROMPT = 64
# Steps measured on a real engine, and the tokens that each of its sequences may have.
REAL_STEPS, REAL_TOKENS, LARGEST_BLOCK = 7, 32, 128


@dataclass(frozen=True)
class Cost:
    """Medians over the steps, in microseconds."""

    sequences: int
    step: float
    step_with_marshalling: float
    real_step: float | None = None
    real_step_idle: float | None = None

    @property
    def per_sequence(self) -> tuple[float, float]:
        return self.step / self.sequences, self.step_with_marshalling / self.sequences


class InstantExecutor:
    """Answers token 0 to everything, and counts the seconds it takes itself."""

    def __init__(self, manifest: EngineManifest) -> None:
        self.manifest = manifest
        self.num_blocks = manifest.limits.max_batch_size * MAX_SEQ_LEN // TOKENS_PER_BLOCK
        self.seconds = 0.0

    def execute(self, batch: StepBatch) -> StepOutput:
        start = time.perf_counter()
        output = StepOutput([0 if sequence.sample_last else None for sequence in batch.sequences])
        self.seconds += time.perf_counter() - start
        return output

    def close(self) -> None:
        """Nothing is held."""


class MarshallingExecutor(InstantExecutor):
    """Fills the arrays of a compiled engine and reads what is in them: token 0."""

    def __init__(self, manifest: EngineManifest) -> None:
        super().__init__(manifest)
        self._buffers = StepBuffers(manifest)

    def execute(self, batch: StepBatch) -> StepOutput:
        self._buffers.fill(batch)
        return self._buffers.read(batch)


def decoding_core(executor: Executor, sequences: int, longest_prompt: int, max_tokens: int) -> EngineCore:
    """A core whose sequences have all computed their prompts, of 1 to `longest_prompt` tokens."""
    core = EngineCore(executor)
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    vocab_size = executor.manifest.model.vocab_size
    for number in range(sequences):
        prompt = tuple((number * 7 + place) % vocab_size for place in range(1 + number % longest_prompt))
        core.add_request(Request(str(number), prompt, params))
    core.step()
    while core.stats().last_iteration.generation_sequences < sequences:
        core.step()
    return core


def seconds_per_step(executor: InstantExecutor, core: EngineCore, steps: int) -> float:
    times = []
    for _ in range(steps):
        executor.seconds = 0.0
        start = time.perf_counter()
        core.step()
        times.append(time.perf_counter() - start - executor.seconds)
    return statistics.median(times)


def real_step_seconds(executor: CpuExecutor, sequences: int) -> tuple[float, float] | None:
    """Of decode steps of a real engine after prompts of one token, the shortest that it has: how long one takes, and
    how much of that lies outside of its operators. None when it does not take that many sequences."""
    if sequences > executor.manifest.limits.max_batch_size:
        return None
    executor.overlaps = False
    core = decoding_core(executor, sequences, 1, REAL_TOKENS - 1)
    times, idle = [], []
    for _ in range(REAL_STEPS):
        executor.start_profile()
        start = time.perf_counter()
        core.step()
        times.append(time.perf_counter() - start)
        idle.append(times[-1] - sum(operator.seconds for operator in executor.profile()))
    for number in range(sequences):
        core.cancel(str(number))
    core.step()
    return statistics.median(times), statistics.median(idle)


def measure(sequences: int, steps: int, real: CpuExecutor | None) -> Cost:
    manifest = null_manifest(
        vocab_size=VOCAB_SIZE,
        max_batch_size=sequences,
        max_seq_len=MAX_SEQ_LEN,
        max_num_tokens=max(sequences, 1024),
        tokens_per_block=TOKENS_PER_BLOCK,
    )
    plain, marshalling = InstantExecutor(manifest), MarshallingExecutor(manifest)
    limits = LONGEST_PROMPT, MAX_SEQ_LEN - LONGEST_PROMPT
    cores = decoding_core(plain, sequences, *limits), decoding_core(marshalling, sequences, *limits)
    rounds = [
        (seconds_per_step(plain, cores[0], steps // 5), seconds_per_step(marshalling, cores[1], steps // 5))
        for _ in range(5)
    ]
    alone, whole = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
    seconds = real_step_seconds(real, sequences) if real is not None else None
    return Cost(sequences, alone, whole, *(() if seconds is None else (each * 1e6 for each in seconds)))


def row(cost: Cost, with_engine: bool) -> list[str]:
    alone, whole = cost.per_sequence
    fields = [f"{cost.sequences:,}", f"{cost.step:,.1f}", f"{alone:.2f}", f"{cost.step_with_marshalling:,.1f}"]
    fields.append(f"{whole:.2f}")
    if not with_engine:
        return fields
    if cost.real_step is None or cost.real_step_idle is None:
        return [*fields, "too many for it", "", ""]
    share = cost.real_step_idle / cost.real_step
    return [*fields, f"{cost.real_step / 1e3:,.1f}", f"{cost.real_step_idle:,.0f}", f"{share:.1%}"]


def print_table(costs: list[Cost], with_engine: bool) -> None:
    head = ["sequences", "a step, us", "per sequence", "with marshalling, us", "per sequence"]
    if with_engine:
        head += ["the engine's step, ms", "of it outside operators, us", "share"]
    for fields in [head, ["---"] * len(head), *(row(cost, with_engine) for cost in costs)]:
        print("| " + " | ".join(fields) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", default="1,64,256,1000", help="comma-separated numbers of decoding sequences")
    parser.add_argument("--steps", type=int, default=200, help="steps measured for each number")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--engine", type=Path, help="measure this engine's steps too")
    options = parser.parse_args()
    counts = [int(count) for count in options.sequences.split(",")]
    budget = KvCacheBudget(tokens=max(counts) * LARGEST_BLOCK)
    real = load_engine(options.engine, kv_cache=budget) if options.engine else None
    if real is not None and not isinstance(real, CpuExecutor):
        parser.error(f"{options.engine} is an engine of target {real.manifest.target}; those of the cpu are measured.")
    costs = [measure(count, options.steps, real) for count in counts]
    if real is not None:
        real.close()
    print_table(costs, real is not None)
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
