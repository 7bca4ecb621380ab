"""An engine core on its own thread, for callers on any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from inflight.errors import EngineError
from inflight.runtime.beam_search.requests import BeamRequests, OnDelta, check_beams
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.request.validation import id_in_use

_log = logging.getLogger(__name__)


class EngineThread:
    """Runs the steps of `core` on a thread, and owns both.

    `on_delta` callbacks run on that thread and must return at once; one that raises is logged, gets no more deltas, and
    its request is cancelled. When the executor fails, every unfinished request gets a final delta with
    finish_reason "error", `healthy` turns False and `failure` holds the cause; the thread has then ended.

    Callers change the core themselves, under a lock that the thread holds while it schedules and publishes, and not
    while the executor computes: a request is queued or refused, and one that waits leaves the queue, also while a long
    step runs.
    """

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._wake = threading.Condition()
        # Shared between threads, as the core is; read and written only while holding `_wake`. A request has a callback
        # until its last delta was delivered, and its id is in use as long.
        self._callbacks: dict[str, OnDelta] = {}
        self._undelivered: dict[str, int] = {}
        self._closing = False
        self.failure: BaseException | None = None
        self._after_step: Callable[[], None] = _do_nothing
        self._beams = BeamRequests(self, core.max_length, core.vocab_size, lambda: self._after_step())
        self._thread = threading.Thread(target=self._run, name="inflight-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether a request submitted now would be served."""
        return self.failure is None and not self._closing

    def submit(self, request: Request, on_delta: OnDelta) -> None:
        """Queue a request. Raises RequestError when it can never be served or its id is in use, OverloadedError when
        the queue is full, EngineError when the engine has failed or is closed."""
        self.submit_all([request], on_delta)

    def compile_grammar(self, request: Request) -> None:
        """Compile the grammar of a request ahead of `submit`, which then takes no longer than for others. Raises
        RequestError for what cannot be compiled."""
        self._core.compile_grammar(request)

    def submit_all(self, requests: Sequence[Request], on_delta: OnDelta) -> None:
        """Queue all of `requests`, or none. Raises as `submit`."""
        with self._wake:
            # Before the work that grows with the prompts: a refusal has to cost little.
            self._core.check_queue(sum(request.num_sequences for request in requests))
            for request in requests:
                if request.request_id in self._callbacks or request.request_id in self._beams:
                    raise id_in_use(request)
        searches = [request for request in requests if request.beams is not None]
        for request in searches:
            check_beams(request, self._core.max_length)
        self._queue([request for request in requests if request.beams is None], on_delta, None)
        for request in searches:
            self._beams.submit(request, on_delta)

    def submit_step(self, requests: Sequence[Request], on_delta: OnDelta, place: int | None) -> int:
        """Queue the beams of a search where it stood in the queue, at the `place` of its step before. Raises as
        `submit`."""
        return self._queue(requests, on_delta, place)

    def _queue(self, requests: Sequence[Request], on_delta: OnDelta, place: int | None) -> int:
        groups = [self._core.prepare(request) for request in requests]
        with self._wake:
            self._refuse_if_stopped()
            for request in requests:
                if request.request_id in self._callbacks:
                    raise id_in_use(request)
            place = self._core.enqueue(*groups, place=place)
            for group in groups:
                self._callbacks[group.request.request_id] = on_delta
                self._undelivered[group.request.request_id] = len(group.sequences)
            self._wake.notify()
        return place

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences: at once where it waits, else when the step under way has ended. Its
        final delta comes after that step. A beam search ends whole, with what it has found. Unknown ids are ignored."""
        self._beams.cancel(request_id)
        with self._wake:
            self._core.cancel(request_id, index)
            self._wake.notify()

    def after_steps(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the engine's thread after each step, when its deltas have been delivered.

        Use it to wake another thread once a step. It must return at once. It replaces an earlier callback.
        """
        self._after_step = callback

    def stats(self) -> CoreStats:
        """The core's statistics now."""
        with self._wake:
            return self._core.stats()

    def close(self) -> None:
        """Cancel what is unfinished, end the thread and close the executor. Calling it twice is harmless."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._beams.join()

    def _refuse_if_stopped(self) -> None:
        if self.failure is not None:
            raise EngineError(f"The engine has stopped: {_describe(self.failure)}", "Restart it.") from self.failure
        if self._closing:
            raise EngineError("The engine is closed.")

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._step()
        except BaseException as failure:
            _log.exception("the engine failed; every unfinished request ends with an error")
            self._stop(failure)
        else:
            self._stop(None)
        finally:
            self._core.close()

    def _wait_for_work(self) -> bool:
        """False when the thread should end."""
        with self._wake:
            while not (self._closing or self._core.has_unfinished()):
                self._wake.wait()
            return not self._closing

    def _step(self) -> None:
        with self._wake:
            step = self._core.schedule()
        output = None if step is None else self._core.execute(step, self._wake)
        with self._wake:
            deltas = self._core.publish(step, output)
        self._deliver(deltas)

    def _stop(self, failure: BaseException | None) -> None:
        """Refuse new requests, and end all others: cancelled, or with the cause of the failure."""
        with self._wake:
            self._closing = True
            self.failure = failure
            deltas = self._core.abort("cancelled") if failure is None else self._core.abort("error", _describe(failure))
        self._deliver(deltas)
        if failure is not None:
            # After the deltas: whoever watches for it may end this process.
            self._core.heartbeat.fail(_describe(failure))

    def _deliver(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            request_id = delta.request_id
            callback = self._callbacks.get(request_id)
            if delta.finish_reason is not None:
                self._count_finished(request_id)
            if callback is None or callback is _ignore:
                continue
            try:
                callback(delta)
            except Exception:
                _log.exception("the callback of request %s raised; the request is cancelled", request_id)
                self._drop(request_id)
        self._after_step()

    def _count_finished(self, request_id: str) -> None:
        with self._wake:
            self._undelivered[request_id] -= 1
            if self._undelivered[request_id] == 0:
                del self._undelivered[request_id]
                del self._callbacks[request_id]

    def _drop(self, request_id: str) -> None:
        with self._wake:
            if request_id in self._callbacks:
                self._callbacks[request_id] = _ignore
                self._core.cancel(request_id)


def _ignore(delta: TokenDelta) -> None:
    """Replaces the callback of a request when that has raised."""


def _do_nothing() -> None:
    """Default hook: does nothing."""


def _describe(failure: BaseException) -> str:
    return str(failure) or type(failure).__name__
