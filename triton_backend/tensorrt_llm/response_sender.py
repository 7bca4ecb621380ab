"""The thread that sends responses to Triton, so that the engine's thread never waits for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from inflight.errors import EngineError, InflightError
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.request.deltas import TokenDelta
from inflight.triton_backend.tensorrt_llm.response_stream import ResponseStream

# After a round of sending, rest this many times as long as it took, but no longer than the second number of seconds.
# The server works as long on a response as we do, and what both take is missing to the engine: so they seldom have
# more than a fifth of the time, and where steps are short, several tokens of a sequence leave in one response.
_REST_PER_ROUND, _LONGEST_REST_S = 4.0, 0.02

_log = logging.getLogger(__name__)


class ResponseSender:
    """Owns every ResponseStream: whatever happens to one happens on this thread, in the order it was asked for.

    Sending one response takes a fraction of a millisecond. When deltas come faster than they should be sent, those of
    one sequence leave in one response. `period_s`: how often abandoned requests are looked for and `on_tick` is called.
    A stream whose responses cannot be made or sent ends with an error; whatever was wrong with it, the others go on.
    """

    def __init__(self, engine: EngineThread, period_s: float, on_tick: Callable[[], None]) -> None:
        self._engine = engine
        self._period_s = period_s
        self._on_tick = on_tick
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[str, ResponseStream] = {}
        # The streams with news, in the order in which it came.
        self._touched: dict[ResponseStream, None] = {}
        self._thread = threading.Thread(target=self._run, name="response-sender")
        self._thread.start()

    def submit(self, stream: ResponseStream) -> None:
        """Give the rows of `stream` to the engine. When it refuses one, none runs and the reason is the response."""
        self._events.put(partial(self._open, stream))
        for row in stream.rows:
            try:
                self._engine.submit(row.request, self._put)
            except InflightError as error:
                self._events.put(partial(self._fail, stream, error))
                return
        self._events.put(partial(self._started, stream))

    def stop(self, client_id: str, index: int | None = None) -> None:
        """End a client's requests of this id early, with what they have; `index`: only that sequence of them."""
        self._events.put(partial(self._stop, client_id, index))

    def close(self) -> None:
        """Return when everything queued has been sent."""
        self._events.put(None)
        self._thread.join()

    def _put(self, delta: TokenDelta) -> None:
        """Called by the engine's thread; must return at once."""
        self._events.put(partial(self._take, delta))

    def _run(self) -> None:
        next_tick = time.monotonic() + self._period_s
        while self._drain(max(0.0, next_tick - time.monotonic())):
            if time.monotonic() >= next_tick:
                self._cancel_abandoned()
                with suppress(Exception):  # statistics are nobody's answer
                    self._on_tick()
                next_tick = time.monotonic() + self._period_s

    def _drain(self, timeout_s: float) -> bool:
        """Handle every queued event, then send what is due. False when the sender was closed."""
        is_open = True
        try:
            event = self._events.get(timeout=timeout_s)
            while event is not None:
                event()
                event = self._events.get_nowait()
            is_open = False
        except queue.Empty:
            pass
        if self._touched:
            started = time.monotonic()
            self._send_due()
            if is_open:
                time.sleep(min(_REST_PER_ROUND * (time.monotonic() - started), _LONGEST_REST_S))
        return is_open

    def _send_due(self) -> None:
        touched, self._touched = self._touched, {}
        for stream in touched:
            with self._ending_on_error(stream):
                stream.send_due()
            if stream.closed:
                self._forget(stream)

    def _open(self, stream: ResponseStream) -> None:
        self._streams |= dict.fromkeys(stream.request_ids, stream)

    def _started(self, stream: ResponseStream) -> None:
        """The engine has every row. What was cancelled before it had them goes on until it is cancelled now."""
        if stream.closed or stream.abandoned:
            self._cancel(stream)

    def _take(self, delta: TokenDelta) -> None:
        stream = self._streams.get(delta.request_id)
        if stream is None:
            return
        with self._ending_on_error(stream):
            if stream.add(delta):
                self._engine.cancel(delta.request_id, delta.index)
            self._touched[stream] = None

    def _stop(self, client_id: str, index: int | None) -> None:
        for request_id, stream in self._streams.items():
            if stream.client_id == client_id:
                self._engine.cancel(request_id, index)

    @contextmanager
    def _ending_on_error(self, stream: ResponseStream) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            _log.exception("a response could not be made or sent; its request is cancelled")
            self._fail(stream, EngineError(f"The response could not be made or sent: {error}"))

    def _fail(self, stream: ResponseStream, error: InflightError) -> None:
        with suppress(Exception):  # the client cannot be reached
            stream.fail(error)
        self._cancel(stream)
        self._forget(stream)

    def _cancel(self, stream: ResponseStream) -> None:
        for request_id in stream.request_ids:
            self._engine.cancel(request_id)

    def _forget(self, stream: ResponseStream) -> None:
        for request_id in stream.request_ids:
            self._streams.pop(request_id, None)

    def _cancel_abandoned(self) -> None:
        for stream in set(self._streams.values()):
            with self._ending_on_error(stream):
                if stream.found_abandoned():
                    self._cancel(stream)
