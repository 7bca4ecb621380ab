"""Engines of a kit, opened on the GPU or under the interpreter, and how they are stepped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from inflight.engine_format.gpu_artifact import Artifact
from inflight.runtime.executors.cuda.backend import Backend
from inflight.runtime.executors.cuda.engine_files import read_kernels
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

Floats = npt.NDArray[np.float32]


class Executor(Protocol):
    def execute_with_logits(self, batch: StepBatch) -> tuple[Any, Floats]: ...


@dataclass(frozen=True)
class Kit:
    """A kit's folder, what stands for the GPU, and the engine that this process looks at, where it is one."""

    directory: Path
    interpreted: bool
    engine: str | None = None

    def backend(self, kernels: dict[int, list[Artifact]]) -> Backend:
        return self._make()(kernels)

    def engines(self, folder: str = "engines") -> list[Path]:
        """All of them, or the one that this process looks at."""
        if self.engine is not None:
            return [self.directory / folder / self.engine]
        return sorted(path for path in (self.directory / folder).iterdir() if path.is_dir())

    def the_engine(self, folder: str = "engines") -> Path:
        (engine,) = self.engines(folder)
        return engine

    def open(self, engine: Path, num_blocks: int, opened_as: type[CudaExecutor] = CudaExecutor) -> CudaExecutor:
        return opened_as(engine, read_engine_directory(engine).manifest, num_blocks, self._make())

    def kernels(self) -> dict[int, list[Artifact]]:
        """Those of the measured cases, in the order of `cases.json`."""
        return read_kernels(self.directory / "cases.kernels.json")

    def cases(self) -> dict[str, int]:
        """The place of a case's kernel, by its key."""
        return dict(json.loads((self.directory / "cases.json").read_text()))

    def _make(self) -> Callable[[dict[int, list[Artifact]]], Backend]:
        if self.interpreted:
            from tests.oracles.gpu.interpreted_launches import InterpretedBackend

            return InterpretedBackend
        from inflight.runtime.executors.cuda.gpu_backend import GpuBackend

        return GpuBackend


@dataclass(frozen=True)
class Script:
    """Prompts, and the tokens that follow each; blocks of sequence i are i * stride and those behind it."""

    prompts: Sequence[Sequence[int]]
    tokens: Sequence[Sequence[int]]
    stride: int

    @property
    def num_blocks(self) -> int:
        return self.stride * len(self.prompts)

    def blocks(self, each: int) -> list[int]:
        """Those of a sequence."""
        return list(range(each * self.stride, (each + 1) * self.stride))

    def logits(self, executor: Executor, which: Sequence[int], *, chunk: int = 0) -> list[list[Floats]]:
        """For each of the sequences `which`, the logits [vocab] that follow its prompt, and each of its tokens.

        All prompts are in one step, in steps of at most `chunk` tokens each where that is given; then each step has the
        next token of all.
        """
        found: list[list[Floats]] = [[] for _ in which]
        longest = max(len(self.prompts[each]) for each in which)
        size = chunk or longest
        for start in range(0, longest, size):
            parts = [
                self._part(each, start, min(start + size, len(self.prompts[each])))
                for each in which
                if start < len(self.prompts[each])
            ]
            self._step(executor, parts, which, found)
        for index in range(len(self.tokens[0])):
            places = [len(self.prompts[each]) + index for each in which]
            parts = [self._part(each, place, place + 1) for each, place in zip(which, places, strict=True)]
            self._step(executor, parts, which, found)
        return found

    def _step(
        self, executor: Executor, parts: list[ScheduledSequence], which: Sequence[int], found: list[list[Floats]]
    ) -> None:
        rows = executor.execute_with_logits(StepBatch(parts))[1]
        wanted = [part for part in parts if part.sample_last]
        for part, row in zip(wanted, rows, strict=True):
            found[which.index(part.slot)].append(row.copy())

    def _part(self, each: int, start: int, end: int) -> ScheduledSequence:
        whole, prompt = [*self.prompts[each], *self.tokens[each]], len(self.prompts[each])
        return ScheduledSequence(
            *(each, whole[start:end], start, self.blocks(each), RowSampling()),
            sample_last=end >= prompt,
            prompt_length=prompt,
        )
