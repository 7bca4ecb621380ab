"""The process of the OpenAI-compatible API: in front of Triton, or with the engine in it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from inflight.errors import InflightError
from inflight.progress import console
from inflight.records import Record
from inflight.runtime.engine.heartbeat import VARIABLE, Heartbeat
from inflight.triton_backend.launch.api.bounded_head import BoundedHead
from inflight.triton_backend.launch.api.gate import Gate
from inflight.triton_backend.launch.api.service import open_service
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.launch.several.heartbeats import Heartbeats
from inflight.triton_backend.launch.several.orders import SeveralOrders, open_catalogue
from inflight.triton_backend.models.front import Front
from inflight.triton_backend.openai.app import create_app

# For what is ended with an error: to reach a client that reads.
_LAST_WORDS_S = 1.0
_TICK_S = 0.05
# For ps, and for who finds a port taken; Linux has room for 15 characters.
_NAME = "inflight-api"


class Closable(Protocol):
    async def close(self) -> None: ...


class ApiOrders(Record):
    """What the process is to do. `triton`: the gRPC address of the server to use; None: load the engine. `several`: the
    options name more models than one."""

    engine_dir: Path
    options: ServeOptions
    triton: str | None
    several: SeveralOrders | None = None


def main() -> None:
    """Serve as the ApiOrders on standard input say, until SIGTERM. Exit code 1 when that cannot be begun."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with suppress(OSError):
        Path("/proc/self/comm").write_text(_NAME)
    orders = ApiOrders.model_validate_json(sys.stdin.read())
    try:
        app, backend, heartbeat = _application(orders)
    except (InflightError, OSError) as error:
        console.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        sys.exit(1)

    def hanging() -> str | None:
        step = heartbeat.running_step()
        return None if step is None or step.age_s < orders.options.hang_s else f"The engine hangs: {step}."

    gate = Gate(app, hanging)
    config = uvicorn.Config(
        gate,
        host=orders.options.host,
        port=orders.options.port,
        log_level="warning",
        http=BoundedHead,
        ws="none",
        timeout_graceful_shutdown=int(_LAST_WORDS_S),
    )
    _Server(config, gate, backend, orders.options.drain_s).run()


def _application(orders: ApiOrders) -> tuple[ASGIApp, Closable, Heartbeat]:
    """With what is closed when the server stops, and what its engines write."""
    options = orders.options
    if orders.several is None:
        heartbeat = Heartbeat.of_environment()
        service = open_service(orders.engine_dir, options, orders.triton, heartbeat)
        return create_app(service, options.allowed_origins), service.backend, heartbeat
    catalogue = open_catalogue(options, orders.triton, orders.several)
    front = Front(catalogue, options.allowed_origins, options.max_body_bytes)
    return front, catalogue, Heartbeats(Path(os.environ[VARIABLE]))


class _Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn's types are not looked at
    """Answers 503 after SIGTERM while running requests go on, for `drain_s` seconds at most; what then still runs ends
    with an error."""

    def __init__(self, config: uvicorn.Config, gate: Gate, backend: Closable, drain_s: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._backend = backend
        self._drain_s = drain_s
        self._drain: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._begin_to_drain)
        yield

    def _begin_to_drain(self) -> None:
        if self._drain is None:
            self._gate.closed = "The server is stopping."
            self._drain = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        try:
            await self._until_none_is_open(self._drain_s)
            await self._backend.close()
            await self._until_none_is_open(_LAST_WORDS_S)
        finally:
            self.should_exit = True

    async def _until_none_is_open(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._gate.open and time.monotonic() < deadline:
            await asyncio.sleep(_TICK_S)
