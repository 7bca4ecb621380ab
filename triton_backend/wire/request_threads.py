"""Threads for the requests of models that call other models."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from inflight.errors import EngineError, InflightError
from inflight.triton_backend.wire.request_tensors import Array
from inflight.triton_backend.wire.triton_api import ModelSettings, TritonChannel, input_arrays, log_exception

# Threads that Triton's Python backend has for the calls of a model, unless --backend-config=python,thread-pool-size=N
# says another number.
_POOL_OF_TRITON = 32
# A call of a model keeps one of them until it has ended. So many must be free for the calls that stop others: else
# requests whose clients have gone would keep all of them, and their places in the engine.
_FREE = 4


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `request_id` is our own, because clients may repeat theirs, and goes to the models that are called;
    `outputs`: those that the client wants."""

    request_id: str
    client_id: str
    tensors: Mapping[str, Array]
    outputs: frozenset[str]
    channel: TritonChannel


class RequestThreads:
    """Serves requests, each on a thread of its own, also after `execute` has returned and in either mode of decoupling:
    as many at once as `settings` give the backend threads (thread_pool_size), less a few.

    `serve` sends the responses of a call; its errors are the response. `stop` is called with the id of a request whose
    client has gone, which is looked for every cancellation_check_period_ms: again each time until it has ended, because
    what is to stop may not have begun.
    """

    def __init__(self, settings: ModelSettings, serve: Callable[[Call], None], stop: Callable[[str], None]) -> None:
        most = max(1, (settings.integer("thread_pool_size") or _POOL_OF_TRITON) - _FREE)
        self._serve = serve
        self._stop = stop
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="request")
        self._open: dict[str, Call] = {}
        self._closing = threading.Event()
        self._period_s = (settings.integer("cancellation_check_period_ms") or 100) / 1000
        self._watcher = threading.Thread(target=self._watch, name="cancellation")
        self._watcher.start()

    def start(self, request: Any) -> None:
        call = Call(
            uuid.uuid4().hex,
            request.request_id(),
            input_arrays(request),
            frozenset(request.requested_output_names()),
            TritonChannel(request),
        )
        self._open[call.request_id] = call
        self._pool.submit(self._run, call)

    def stop_client(self, client_id: str) -> None:
        """Stop the requests to which a client gave this id; they answer with what they have."""
        for call in list(self._open.values()):
            if call.client_id == client_id:
                self._stop(call.request_id)

    def close(self) -> None:
        """Return when every request has ended."""
        self._pool.shutdown()
        self._closing.set()
        self._watcher.join()

    def _run(self, call: Call) -> None:
        try:
            if not call.channel.is_cancelled():
                self._serve(call)
        except InflightError as error:
            call.channel.send_error(error)
        except Exception as error:
            # A client must get an answer even when the request's thread fails.
            log_exception(f"request {call.request_id} failed")
            call.channel.send_error(EngineError(f"{type(error).__name__}: {error}"))
        finally:
            self._open.pop(call.request_id, None)
            call.channel.finish()

    def _watch(self) -> None:
        """Tell the engine about requests whose client has gone, also while they wait for their first token."""
        while not self._closing.wait(self._period_s):
            for request_id, call in list(self._open.items()):
                if call.channel.is_cancelled():
                    with suppress(InflightError):  # of an engine that has failed, which the request hears itself
                        self._stop(request_id)
