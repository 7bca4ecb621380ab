"""Runs requests through the engine core, and records the work and time of each step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.base import Executor, OverlappingExecutor, overlaps_steps, settle
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `seconds` is all of it, `executor_seconds` the executor's part: the rest is scheduling and publishing.

    `tokens` rows were computed, `logit_rows` of them up to the vocabulary, and `cached_tokens` tokens of the cache were
    in sight of some sequence. `is_decode`: no sequence computed any part of its prompt.
    """

    seconds: float
    executor_seconds: float
    sequences: int
    tokens: int
    logit_rows: int
    cached_tokens: int
    is_decode: bool


class TimedExecutor:
    """An Executor that records its last batch, and its time since that was last set to 0. It overlaps steps where that
    which it times does."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.manifest = executor.manifest
        self.num_blocks = executor.num_blocks
        self.batch = StepBatch(())
        self.seconds = 0.0
        self.overlaps = overlaps_steps(executor) is not None

    def execute(self, batch: StepBatch) -> StepOutput:
        start, self.batch = time.perf_counter(), batch
        output = self.executor.execute(batch)
        self.seconds += time.perf_counter() - start
        return output

    def submit(self, batch: StepBatch) -> tuple[StepBatch, Any]:
        """See OverlappingExecutor."""
        start = time.perf_counter()
        submitted = cast(OverlappingExecutor, self.executor).submit(batch)
        self.seconds += time.perf_counter() - start
        return batch, submitted

    def collect(self, submitted: tuple[StepBatch, Any]) -> StepOutput:
        """See OverlappingExecutor."""
        start = time.perf_counter()
        self.batch, step = submitted
        output = cast(OverlappingExecutor, self.executor).collect(step)
        self.seconds += time.perf_counter() - start
        return output

    def close(self) -> None:
        self.executor.close()


class StepTimer:
    """An engine whose steps are timed: greedy, end tokens ignored, no prefix caching. Close it to free its memory."""

    def __init__(self, executor: Executor) -> None:
        self._executor = TimedExecutor(executor)
        self._core = EngineCore(self._executor, SchedulerConfig(enable_prefix_caching=False))
        self._ids = itertools.count()

    @classmethod
    def open(cls, engine: Path, threads: int | None, kv_cache: KvCacheBudget) -> StepTimer:
        """Raises EngineError when the engine cannot be loaded."""
        executor = load_engine(engine, threads=threads, kv_cache=kv_cache)
        settle(executor)
        return cls(executor)

    @property
    def executor(self) -> Executor:
        return self._executor.executor

    @property
    def manifest(self) -> EngineManifest:
        return self._executor.manifest

    def run(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[Step]:
        """All prompts at once, `output_len` tokens each. Raises RequestError when they can never fit the engine."""
        self._enqueue(prompts, output_len)
        steps = []
        while self._core.has_unfinished():
            self._executor.seconds, start = 0.0, time.perf_counter()
            self._core.step()
            steps.append(self._describe(time.perf_counter() - start))
        return steps

    def run_until_decoding(self, prompts: Sequence[Sequence[int]], output_len: int) -> None:
        """All prompts at once, up to the step after which only decoding is left; `finish` does that."""
        self._enqueue(prompts, output_len)
        started: set[str] = set()
        while len(started) < len(prompts):
            started |= {delta.request_id for delta in self._core.step()}

    def finish(self) -> None:
        """Run what is queued to its end."""
        while self._core.has_unfinished():
            self._core.step()

    def close(self) -> None:
        self._executor.close()

    def _enqueue(self, prompts: Sequence[Sequence[int]], output_len: int) -> None:
        """Queue all prompts, or none: the first that is refused raises."""
        params = SamplingParams(temperature=0.0, max_tokens=output_len, ignore_eos=True)
        requests = [Request(str(next(self._ids)), tuple(prompt), params) for prompt in prompts]
        for group in [self._core.prepare(request) for request in requests]:
            self._core.enqueue(group)

    def _describe(self, seconds: float) -> Step:
        sequences = self._executor.batch.sequences
        return Step(
            seconds=seconds,
            executor_seconds=self._executor.seconds,
            sequences=len(sequences),
            tokens=sum(len(each.token_ids) for each in sequences),
            logit_rows=sum(each.num_logit_rows for each in sequences),
            cached_tokens=sum(each.start + len(each.token_ids) for each in sequences),
            is_decode=self._core.stats().last_iteration.context_tokens == 0,
        )


def random_prompts(rng: np.random.Generator, count: int, length: int, vocab_size: int) -> list[list[int]]:
    """`count` prompts of `length` token ids, each id drawn alike."""
    drawn: list[list[int]] = rng.integers(0, vocab_size, (count, length)).tolist()
    return drawn
