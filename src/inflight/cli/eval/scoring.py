"""Texts through engines with every logit row kept, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from inflight.accuracy.figures import WindowSums
from inflight.accuracy.windows import first_scored
from inflight.cli.verify.engine import LogitsExecutor
from inflight.errors import EngineError, InflightError
from inflight.progress import Advance
from inflight.runtime.executors.base import Executor
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.loading.task import refuse_pooling
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch

Logits = npt.NDArray[np.float32]

# Sequences of full length that the KV cache holds: one for a window, several for questions.
_SEQUENCES = 4


def check_engine(directory: Path) -> None:
    """Raises what keeps the engine from being measured, as far as its files say it: it makes embeddings or scores
    (EngineError), or has no tokenizer (InflightError)."""
    refuse_pooling(read_engine_directory(directory).manifest)
    if not (directory / "tokenizer").is_dir():
        raise InflightError(
            f"{directory} has no tokenizer, so it reads no text.",
            "Build it from a checkpoint with tokenizer files.",
        )


def open_engine(directory: Path, threads: int | None) -> Executor:
    """The engine with a KV cache that is large enough to be measured with. Raises EngineError."""
    longest = read_engine_directory(directory).manifest.limits.max_seq_len
    return load_engine(directory, threads=threads, kv_cache=KvCacheBudget(tokens=_SEQUENCES * longest))


def check_logits(executor: Executor) -> None:
    """Raises EngineError for a target that does not hand out logits."""
    if not isinstance(executor, LogitsExecutor):
        raise EngineError(f"Target {executor.manifest.target} hands out no logits, so no text can be scored.")


def score_window(engine: Executor, reference: Executor | None, window: Sequence[int], advance: Advance) -> WindowSums:
    """Score the second half of `window` with the engine, and against the reference, which take turns: neither keeps
    more than a step's logits. Both hand out logits, and hold a sequence of the window's length."""
    executors = [engine] if reference is None else [engine, reference]
    rows = min(_most_rows(executor) for executor in executors)
    first = first_scored(window)
    streams = [_logits(executor, window, first, rows) for executor in executors]
    sums = WindowSums()
    for start, parts in zip(range(first, len(window), rows), zip(*streams, strict=True), strict=True):
        sums.add(window[start : start + rows], *parts)
        advance(len(parts[0]))
    return sums


def _most_rows(executor: Executor) -> int:
    limits = executor.manifest.limits
    return min(limits.max_num_tokens, limits.max_logit_rows)


def _logits(executor: Executor, window: Sequence[int], first: int, rows: int) -> Iterator[Logits]:
    """The logits that decide about the tokens from position `first` on, `rows` at a time."""
    limits, size = executor.manifest.limits, executor.manifest.kv_cache.tokens_per_block
    blocks = tuple(range(-(-len(window) // size)))

    def step(start: int, end: int, targets: Sequence[int]) -> StepBatch:
        scored = {"prompt_targets": tuple(targets), "prompt_num_logprobs": 0} if targets else {}
        return StepBatch((ScheduledSequence(0, tuple(window[start:end]), start, blocks, **scored),))  # type: ignore[arg-type]

    for start in range(0, first - 1, limits.max_num_tokens):
        executor.execute(step(start, min(start + limits.max_num_tokens, first - 1), ()))
    for start in range(first - 1, len(window) - 1, rows):
        end = min(start + rows, len(window) - 1)
        yield cast(LogitsExecutor, executor).execute_with_logits(step(start, end, window[start + 1 : end + 1]))[1]
