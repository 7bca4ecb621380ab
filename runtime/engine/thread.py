"""An engine core on its own thread, for callers on any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from inflight.errors import EngineError, RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.scheduler.sequence import SequenceGroup

OnDelta = Callable[[TokenDelta], None]

_log = logging.getLogger(__name__)


class EngineThread:
    """Runs the steps of `core` on a thread, and owns both.

    `on_delta` callbacks run on that thread and must return at once; one that raises is logged, gets no more deltas, and
    its request is cancelled. When the executor fails, every unfinished request gets a final delta with
    finish_reason "error", `healthy` turns False and `failure` holds the cause; the thread has then ended.
    """

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._wake = threading.Condition()
        # Shared between threads; read and written only while holding `_wake`. Orders run in the order given: a cancel
        # must never reach a later request with the id of a finished one.
        self._orders: list[Callable[[], None]] = []
        self._callbacks: dict[str, OnDelta] = {}
        self._closing = False
        self._stats = core.stats()
        self.failure: BaseException | None = None
        # Used only by the engine's thread.
        self._unfinished: dict[str, int] = {}
        self._after_step: Callable[[], None] = _do_nothing
        self._thread = threading.Thread(target=self._run, name="inflight-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether a request submitted now would be served."""
        return self.failure is None and not self._closing

    def submit(self, request: Request, on_delta: OnDelta) -> None:
        """Queue a request. Raises RequestError when it can never be served or its id is in use, EngineError when the
        engine has failed or is closed."""
        group = self._core.prepare(request)
        with self._wake:
            self._refuse_if_stopped()
            if request.request_id in self._callbacks:
                raise RequestError(
                    f"A request with the id {request.request_id} is running.", "Give every request its own id."
                )
            self._callbacks[request.request_id] = on_delta
            self._orders.append(partial(self._enqueue, group))
            self._wake.notify()

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences, at the next step boundary. Unknown ids are ignored."""
        with self._wake:
            if request_id in self._callbacks:
                self._orders.append(partial(self._core.cancel, request_id, index))
                self._wake.notify()

    def after_steps(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the engine's thread after each step, when its deltas have been delivered.

        Use it to wake another thread once a step. It must return at once. It replaces an earlier callback.
        """
        self._after_step = callback

    def stats(self) -> CoreStats:
        """The core's statistics after its last step."""
        with self._wake:
            return self._stats

    def close(self) -> None:
        """Cancel what is unfinished, end the thread and close the executor. Calling it twice is harmless."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _refuse_if_stopped(self) -> None:
        if self.failure is not None:
            raise EngineError(f"The engine has stopped: {_describe(self.failure)}", "Restart it.") from self.failure
        if self._closing:
            raise EngineError("The engine is closed.")

    def _run(self) -> None:
        try:
            while self._take_orders():
                self._deliver(self._core.step())
        except BaseException as failure:
            _log.exception("the engine failed; every unfinished request ends with an error")
            self._stop(failure)
        else:
            self._stop(None)
        finally:
            self._core.close()

    def _take_orders(self) -> bool:
        """Wait for work and pass new orders to the core; False when the thread should end."""
        with self._wake:
            while not (self._closing or self._orders or self._core.has_unfinished()):
                self._wake.wait()
            orders, self._orders = self._orders, []
            closing = self._closing
        for order in orders:
            order()
        return not closing

    def _enqueue(self, group: SequenceGroup) -> None:
        self._unfinished[group.request.request_id] = len(group.sequences)
        self._core.enqueue(group)

    def _stop(self, failure: BaseException | None) -> None:
        """Refuse new requests, and end all others: cancelled, or with the cause of the failure."""
        with self._wake:
            self._closing = True
            self.failure = failure
            orders, self._orders = self._orders, []
        for order in orders:
            order()
        if failure is None:
            self._deliver(self._core.abort("cancelled"))
            return
        self._deliver(self._core.abort("error", _describe(failure)))
        # After the deltas: whoever watches for it may end this process.
        self._core.heartbeat.fail(_describe(failure))

    def _deliver(self, deltas: list[TokenDelta]) -> None:
        # Before the callbacks: whoever has the last delta of a request must find its blocks freed in the statistics.
        stats = self._core.stats()
        with self._wake:
            self._stats = stats
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
        self._unfinished[request_id] -= 1
        if self._unfinished[request_id] == 0:
            del self._unfinished[request_id]
            with self._wake:
                del self._callbacks[request_id]

    def _drop(self, request_id: str) -> None:
        with self._wake:
            if request_id in self._callbacks:
                self._callbacks[request_id] = _ignore
                self._orders.append(partial(self._core.cancel, request_id))


def _ignore(delta: TokenDelta) -> None:
    """Replaces the callback of a request when that has raised."""


def _do_nothing() -> None:
    """Default hook: does nothing."""


def _describe(failure: BaseException) -> str:
    return str(failure) or type(failure).__name__
