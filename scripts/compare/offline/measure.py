"""The measuring itself: every engine in turn, round after round, on the same prompts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from compare.engines.base import Engine, Model
from compare.offline.bounds import bound_seconds, weight_bytes
from compare.offline.cells import Capacity, Cell, Precision
from compare.offline.fresh_process import seconds_to_first_output
from compare.offline.results import Failure, Run
from compare.offline.worker_process import EngineFailed, WorkerProcess
from inflight.benchmark.limit_checks import float_peaks
from inflight.benchmark.machine_limits import measure_limits

FIRST_TOKEN_PROMPT = "Once upon a time there was a"
WARM_UP_TOKENS = 8
Say = Callable[[str], None]


class Bench:
    """Measures the cells of one precision after another into `run`."""

    def __init__(self, run: Run, model: Model, vocabulary: int, rounds: int, say: Say) -> None:
        self._run, self._model, self._rounds, self._say = run, model, rounds, say
        self._vocabulary = vocabulary
        self._rng = np.random.default_rng()

    def measure(self, precision: Precision, engines: list[Engine], capacity: Capacity) -> None:
        """All cells in `precision` for the engines that have it; an engine that fails is noted and left out."""
        engines = [engine for engine in engines if precision in engine.precisions]
        prepared = self.prepare(precision, engines)
        engines = [engine for engine in engines if engine.name in prepared]
        self._run.weights[precision] = {engine.name: engine.precisions[precision] for engine in engines}
        self._measure_limits(precision)
        try:
            with ExitStack() as stack:
                workers: dict[str, WorkerProcess] = {}
                if any(cell.kind != "first_token" for cell in self._run.cells):
                    workers = self._start(precision, engines, prepared, capacity, stack)
                for cell in self._run.cells:
                    if cell.kind == "throughput":
                        self._throughput(precision, cell, workers)
                        self._measure_limits(precision)
                    elif cell.kind == "memory":
                        self._memory(precision, cell, workers)
            for cell in self._run.cells:
                if cell.kind == "first_token":
                    self._first_token(precision, cell, engines, prepared)
        finally:
            self._measure_limits(precision)

    def prepare(self, precision: Precision, engines: list[Engine]) -> dict[str, Path]:
        """What each engine makes of the model, by its name; kept for the next run."""
        prepared = {}
        for engine in engines:
            if precision not in engine.precisions:
                continue
            self._say(f"{precision}: {engine.name}: converting the model (once)")
            try:
                prepared[engine.name] = engine.prepare(self._model, precision)
            except EngineFailed as error:
                self._fail(engine.name, precision, "converting", error)
        return prepared

    def _start(
        self,
        precision: Precision,
        engines: list[Engine],
        prepared: dict[str, Path],
        capacity: Capacity,
        stack: ExitStack,
    ) -> dict[str, WorkerProcess]:
        workers = {}
        for engine in engines:
            self._say(f"{precision}: {engine.name}: loading")
            command = engine.worker(prepared[engine.name], self._model, capacity, self._run.threads)
            try:
                worker = WorkerProcess(engine.name, command, self._log(engine.name, precision))
            except EngineFailed as error:
                self._fail(engine.name, precision, "loading", error)
                continue
            workers[engine.name] = stack.enter_context(worker)
            self._run.versions[engine.name] = worker.version
        return workers

    def _throughput(self, precision: Precision, cell: Cell, workers: dict[str, WorkerProcess]) -> None:
        """A short warm-up of the same form, then the rounds; who goes first changes from round to round."""
        for turn in range(-1, self._rounds):
            prompts = self._prompts(cell)
            output = cell.output if turn >= 0 else min(cell.output, WARM_UP_TOKENS)
            names = list(workers)
            shift = turn % len(names) if names else 0
            for name in names[shift:] + names[:shift]:
                self._say(f"{precision}: {cell.title}: {name}, {'warm-up' if turn < 0 else f'round {turn + 1}'}")
                try:
                    seconds = workers[name].measure(prompts, output)
                except EngineFailed as error:
                    self._fail(name, precision, cell.title, error)
                    del workers[name]
                    continue
                if turn >= 0:
                    self._run.add(precision, cell, name, seconds)
        self._summarize(precision, cell)

    def _memory(self, precision: Precision, cell: Cell, workers: dict[str, WorkerProcess]) -> None:
        """After the same job in each process; the cells before it need less."""
        prompts = self._prompts(cell)
        for name, worker in list(workers.items()):
            self._say(f"{precision}: {cell.title}: {name}")
            try:
                worker.measure(prompts, cell.output)
                self._run.add(precision, cell, name, worker.peak_memory())
            except EngineFailed as error:
                self._fail(name, precision, cell.title, error)
                del workers[name]
        self._summarize(precision, cell)

    def _first_token(self, precision: Precision, cell: Cell, engines: list[Engine], prepared: dict[str, Path]) -> None:
        """New processes, one at a time; the first of each brings the files into memory and is not counted."""
        failed: set[str] = set()
        for turn in range(-1, self._rounds):
            for engine in engines:
                if engine.name in failed:
                    continue
                self._say(f"{precision}: {cell.title}: {engine.name}, round {turn + 1}")
                command = engine.first_token(prepared[engine.name], FIRST_TOKEN_PROMPT, self._run.threads)
                try:
                    seconds = seconds_to_first_output(command, self._log(f"{engine.name}-first-token", precision))
                except EngineFailed as error:
                    self._fail(engine.name, precision, cell.title, error)
                    failed.add(engine.name)
                    continue
                if turn >= 0:
                    self._run.add(precision, cell, engine.name, seconds)
        self._summarize(precision, cell)

    def _prompts(self, cell: Cell) -> list[list[int]]:
        """New ones for every round, so that nothing can be remembered."""
        return [list(map(int, row)) for row in self._rng.integers(3, self._vocabulary, (cell.users, cell.prompt))]

    def _measure_limits(self, precision: Precision) -> None:
        self._say(f"{precision}: the machine's limits")
        shape = self._run.shape
        measured = measure_limits(self._run.threads, weight_bytes(shape, precision, shape.experts))
        self._run.limits.setdefault(precision, []).append(measured.as_dict())
        self._run.warnings += [text for text in float_peaks(measured).warnings() if text not in self._run.warnings]

    def _summarize(self, precision: Precision, cell: Cell) -> None:
        values = self._run.samples.get(precision, {}).get(cell.key, {})
        medians = "  ".join(f"{name} {statistics.median(samples):.4g}" for name, samples in values.items())
        print(f"{precision}  {cell.title}  {medians}", flush=True)

    def _fail(self, engine: str, precision: Precision, where: str, error: EngineFailed) -> None:
        self._run.failures.append(Failure(engine, precision, where, str(error)))
        print(f"{precision}  {engine} failed ({where}): {error}", flush=True)

    def _log(self, engine: str, precision: Precision) -> Path:
        return self._model.cache / "logs" / f"{engine}-{precision}.log"


def estimated_seconds(run: Run, precision: Precision, engines: list[Engine], rounds: int) -> float:
    """A guess, to plan by: every engine at half of the machine's limit, and what loading took on two cores."""
    limits = run.limits_of(precision)
    engines = [engine for engine in engines if precision in engine.precisions]
    total = 0.0
    for cell in run.cells:
        if cell.kind == "first_token":
            total += (rounds + 1) * sum(FIRST_TOKEN_S.get(engine.name, 2.0) for engine in engines)
            continue
        calls = rounds + 0.7 if cell.kind == "throughput" else 1
        total += calls * len(engines) * bound_seconds(run.shape, cell, precision, limits) / 0.5
    return total + sum(LOAD_S.get(engine.name, 3.0) for engine in engines)


LOAD_S = {"vllm": 35.0}
FIRST_TOKEN_S = {"vllm": 18.0, "transformers": 8.0}
