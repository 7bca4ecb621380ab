"""An engine that pools on its own thread, for callers on any thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from inflight.errors import EngineError, OverloadedError
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.engine.stats import CoreStats, IterationStats
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.pooling.steps import TextSteps
from inflight.runtime.pooling.texts import TokenizedText
from inflight.runtime.pooling.vectors import Floats

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Request:
    """The texts of one caller: those before `next` are done or under way."""

    texts: Sequence[TokenizedText]
    future: Future[list[Floats]]
    next: int = 0
    found: dict[int, Floats] = field(default_factory=dict)


class PoolingThread:
    """Runs the steps of an executor on a thread, and owns both.

    Requests take turns, a text each, so that one of thousands of texts delays no other by more than a step. When the
    executor fails, every unfinished request fails with it, `healthy` turns False and `failure` holds the cause.
    `max_queue_size`: how many texts may wait beside those of a full step before requests are refused; 0: any number.
    """

    def __init__(
        self, executor: PoolingExecutor, heartbeat: Heartbeat | None = None, *, max_queue_size: int = 0
    ) -> None:
        self._steps = TextSteps(executor)
        self._num_blocks = executor.num_blocks
        self._block_size = executor.manifest.kv_cache.tokens_per_block
        self._heartbeat = heartbeat or Heartbeat()
        self._max_queue_size = max_queue_size
        self._wake = threading.Condition()
        # Shared between threads; read and written only while holding `_wake`.
        self._requests: deque[_Request] = deque()
        self._running = self._iterations = self._tokens = 0
        self._closing = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="inflight-pooling", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether a request submitted now would be served."""
        return self.failure is None and not self._closing

    def submit(self, texts: Sequence[TokenizedText]) -> Future[list[Floats]]:
        """The results of `texts`, in their order, when they are there. Cancelling it drops the texts that still wait.

        Raises OverloadedError when the queue is full, EngineError when the engine has failed or is closed.
        """
        future: Future[list[Floats]] = Future()
        with self._wake:
            if self.failure is not None:
                raise EngineError(f"The engine has stopped: {_describe(self.failure)}", "Restart it.")
            if self._closing:
                raise EngineError("The engine is closed.")
            waiting = self._waiting()
            if self._max_queue_size and waiting >= self._steps.limits.max_batch_size + self._max_queue_size:
                raise OverloadedError(f"The queue is full: {waiting} texts wait.", "Send the request again later.")
            if texts:
                self._requests.append(_Request(texts, future))
                self._wake.notify()
            else:
                future.set_result([])
        return future

    def stats(self) -> CoreStats:
        """As an engine core has them: sequences are texts, and no block is used between two steps."""
        with self._wake:
            return CoreStats(
                running=self._running,
                waiting=self._waiting(),
                held=0,
                free_blocks=self._num_blocks,
                cached_blocks=0,
                used_blocks=0,
                total_blocks=self._num_blocks,
                tokens_per_block=self._block_size,
                max_batch_size=self._steps.limits.max_batch_size,
                preemptions=0,
                prefix_query_tokens=0,
                prefix_hit_tokens=0,
                iterations=self._iterations,
                prompt_tokens=self._tokens,
                output_tokens=0,
                last_iteration=IterationStats(iteration=self._iterations),
            )

    def close(self) -> None:
        """Fail what is unfinished, end the thread and close the executor. Calling it twice is harmless."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _waiting(self) -> int:
        return sum(len(request.texts) - request.next for request in self._requests)

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._step(taken)
        except BaseException as failure:
            _log.exception("the engine failed; every unfinished request ends with an error")
            self._stop(failure)
        else:
            self._stop(None)
        finally:
            self._steps.close()

    def _take(self) -> list[tuple[_Request, int]] | None:
        """The texts of the next step, and whose they are; None when the thread should end."""
        with self._wake:
            while True:
                for request in [each for each in self._requests if each.future.cancelled()]:
                    self._requests.remove(request)
                if self._closing:
                    return None
                if any(request.next < len(request.texts) for request in self._requests):
                    break
                self._wake.wait()
            turns = self._turns()
            count = self._steps.count_fitting(request.texts[index] for request, index in turns)
            taken = turns[:count]
            for request, _ in taken:
                request.next += 1
            # Who had the last turn is the last of the next step.
            self._requests.rotate(-len({id(request) for request, _ in taken}))
            self._running, self._iterations = count, self._iterations + 1
            return taken

    def _turns(self) -> list[tuple[_Request, int]]:
        """Texts that wait, one of each request in turn, as many as a batch can have."""
        turns: list[tuple[_Request, int]] = []
        ahead = 0
        most = self._steps.limits.max_batch_size
        while len(turns) < most:
            found = [(each, each.next + ahead) for each in self._requests if each.next + ahead < len(each.texts)]
            if not found:
                break
            turns += found
            ahead += 1
        return turns[:most]

    def _step(self, taken: Sequence[tuple[_Request, int]]) -> None:
        texts = [request.texts[index] for request, index in taken]
        tokens = sum(len(text.token_ids) for text in texts)
        self._heartbeat.begin(self._iterations, len(texts), tokens)
        vectors = self._steps.run(texts)
        self._heartbeat.end()
        finished: list[_Request] = []
        with self._wake:
            self._running, self._tokens = 0, self._tokens + tokens
            for (request, index), vector in zip(taken, vectors, strict=True):
                request.found[index] = vector
                if len(request.found) == len(request.texts):
                    finished.append(request)
                    if request in self._requests:
                        self._requests.remove(request)
        for request in finished:
            if request.future.set_running_or_notify_cancel():
                request.future.set_result([request.found[index] for index in range(len(request.texts))])

    def _stop(self, failure: BaseException | None) -> None:
        with self._wake:
            self._closing = True
            self.failure = failure
            requests = list(self._requests)
            self._requests.clear()
        told = "The server is stopping." if failure is None else f"The engine failed: {_describe(failure)}"
        for request in requests:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(EngineError(told))
        if failure is not None:
            # After the answers: whoever watches for it may end this process.
            self._heartbeat.fail(_describe(failure))


def _describe(failure: BaseException) -> str:
    return str(failure) or type(failure).__name__
