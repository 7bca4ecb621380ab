"""What a step costs in Python, without a model: schedule and publish alone, and with the cpu target's marshalling.

python scripts/bench/step_cost.py [--sequences 1,64,256,1000] [--steps 200] [--json FILE]

All sequences decode; the executor answers at once, and its own time is taken off. "with marshalling" also fills and
reads the arrays of a compiled engine: a token for every sequence, and a new block once in 32 steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from inflight.runtime.engine_core import EngineCore
from inflight.runtime.executors.cpu_buffers import StepBuffers
from inflight.runtime.executors.null import null_manifest
from inflight.runtime.manifest import EngineManifest
from inflight.runtime.request import Request
from inflight.runtime.sampling_params import SamplingParams
from inflight.runtime.step import StepBatch, StepOutput

VOCAB_SIZE, MAX_SEQ_LEN, TOKENS_PER_BLOCK = 151_936, 2048, 32


@dataclass(frozen=True)
class Cost:
    """Medians over the steps, in microseconds."""

    sequences: int
    step: float
    step_with_marshalling: float

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


def decoding_core(executor: InstantExecutor, sequences: int) -> EngineCore:
    """A core whose sequences have all computed their prompts, of 1 to 64 tokens."""
    core = EngineCore(executor)
    params = SamplingParams(temperature=0.0, max_tokens=MAX_SEQ_LEN - 64, ignore_eos=True)
    for number in range(sequences):
        prompt = tuple((number * 7 + place) % VOCAB_SIZE for place in range(1 + number % 64))
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


def measure(sequences: int, steps: int) -> Cost:
    manifest = null_manifest(
        vocab_size=VOCAB_SIZE,
        max_batch_size=sequences,
        max_seq_len=MAX_SEQ_LEN,
        max_num_tokens=max(sequences, 1024),
        tokens_per_block=TOKENS_PER_BLOCK,
    )
    plain, marshalling = InstantExecutor(manifest), MarshallingExecutor(manifest)
    cores = decoding_core(plain, sequences), decoding_core(marshalling, sequences)
    rounds = [
        (seconds_per_step(plain, cores[0], steps // 5), seconds_per_step(marshalling, cores[1], steps // 5))
        for _ in range(5)
    ]
    alone, whole = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
    return Cost(sequences, alone, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", default="1,64,256,1000", help="comma-separated numbers of decoding sequences")
    parser.add_argument("--steps", type=int, default=200, help="steps measured for each number")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    costs = [measure(int(count), options.steps) for count in options.sequences.split(",")]
    print("| sequences | a step, us | per sequence | with marshalling, us | per sequence |")
    print("| --- | --- | --- | --- | --- |")
    for cost in costs:
        alone, whole = cost.per_sequence
        print(
            f"| {cost.sequences:,} | {cost.step:,.1f} | {alone:.2f} | {cost.step_with_marshalling:,.1f} | {whole:.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
