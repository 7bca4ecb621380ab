"""Runs the engine core in the caller's thread until the caller's requests are done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import cast

from inflight.errors import EngineError, RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.executors.base import Executor
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.offline.collector import RequestCollector
from inflight.runtime.offline.interrupts import deferred_interrupt
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.outputs import RequestOutput
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.structured.compiler import GrammarCompiler


class BatchRunner:
    """Several callers, in one thread or many, may wait at once: whoever steps the core steps it for all of them."""

    def __init__(
        self,
        executor: Executor,
        config: SchedulerConfig,
        grammars: GrammarCompiler | None = None,
        offload: KvOffload | None = None,
    ) -> None:
        self._core = EngineCore(executor, config, grammars=grammars, offload=offload)
        self._jobs: dict[str, RequestCollector] = {}
        self._abandoned: deque[RequestCollector] = deque()
        self._lock = threading.Lock()
        self._failure: Exception | None = None

    def run(self, jobs: Sequence[RequestCollector]) -> Iterator[RequestOutput]:
        """Outputs of `jobs` as they come; the last of each has `finished`. Dropping the iterator cancels the rest.

        All jobs are queued at once, or none: raises RequestError, naming the prompt, when one can never be served. The
        iterator raises it for one that cannot go on, and cancels the rest.
        """
        outputs = self._outputs(jobs)
        next(outputs)
        return cast(Iterator[RequestOutput], outputs)

    def stats(self) -> CoreStats:
        with self._lock:
            return self._core.stats()

    def close(self) -> None:
        """Close the executor, once no thread is inside a step; who still waits for outputs gets an EngineError."""
        with self._lock:
            self._core.close()

    def _outputs(self, jobs: Sequence[RequestCollector]) -> Iterator[RequestOutput | None]:
        """The first value is None: the jobs are queued, and from there on the iterator answers for them."""
        waiting: list[RequestCollector] = []
        try:
            for position, job in enumerate(jobs):
                self._add(job, f"Prompt {position}: " if len(jobs) > 1 else "")
                waiting.append(job)
            yield None
            while waiting:
                for job in waiting:
                    if job.failure is not None:
                        raise job.failure
                    while job.outputs:
                        yield job.outputs.popleft()
                waiting = [job for job in waiting if job.outputs or not job.finished]
                if waiting:
                    self._step_until_news(waiting)
        finally:
            self._abandon(waiting)

    def _add(self, job: RequestCollector, which: str) -> None:
        with self._lock:
            try:
                self._core.add_request(job.request)
            except RequestError as error:
                raise RequestError(which + error.message, error.hint) from error
            self._jobs[job.request.request_id] = job

    def _step_until_news(self, jobs: Sequence[RequestCollector]) -> None:
        """Step until one of `jobs` has an output or is finished, or a signal is pending."""
        with deferred_interrupt() as interrupts:
            while not interrupts:
                with self._lock:
                    if any(job.outputs or job.finished for job in jobs):
                        return
                    self._step()

    def _step(self) -> None:
        """One step. The caller has the lock, and holds signals back."""
        if self._failure is not None:
            raise EngineError(f"The engine has failed: {self._failure}", "Load it again.") from self._failure
        while self._abandoned:
            self._core.cancel(self._abandoned.popleft().request.request_id)
        try:
            deltas = self._core.step()
        except Exception as error:
            self._failure = error
            raise
        for delta in deltas:
            self._publish(delta)

    def _publish(self, delta: TokenDelta) -> None:
        job = self._jobs[delta.request_id]
        if job.push(delta):
            self._core.cancel(delta.request_id, delta.index)
        if job.finished:
            del self._jobs[delta.request_id]

    def _abandon(self, jobs: Sequence[RequestCollector]) -> None:
        """Cancel `jobs` and step until the core has released them.

        An iterator may be dropped while this thread or another is inside a step; whoever steps next cancels then.
        """
        unfinished = [job for job in jobs if not job.finished]
        self._abandoned.extend(unfinished)
        if not unfinished or not self._lock.acquire(blocking=False):
            return
        try:
            with deferred_interrupt():
                while self._failure is None and not all(job.finished for job in unfinished):
                    self._step()
        finally:
            self._lock.release()
