"""The process of the OpenAI-compatible API: in front of Triton, or with the engine in it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from inflight.errors import InflightError
from inflight.progress import console
from inflight.records import Record
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.triton_backend.launch.api.bounded_head import BoundedHead
from inflight.triton_backend.launch.api.gate import Gate
from inflight.triton_backend.launch.api.service import open_service
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.openai.app import create_app
from inflight.triton_backend.openai.backends.base import TokenBackend

# For what is ended with an error: to reach a client that reads.
_LAST_WORDS_S = 1.0
_TICK_S = 0.05
# For ps, and for who finds a port taken; Linux has room for 15 characters.
_NAME = "inflight-api"


class ApiOrders(Record):
    """What the process is to do. `triton`: the gRPC address of the server to use; None: load the engine."""

    engine_dir: Path
    options: ServeOptions
    triton: str | None


def main() -> None:
    """Serve as the ApiOrders on standard input say, until SIGTERM. Exit code 1 when that cannot be begun."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with suppress(OSError):
        Path("/proc/self/comm").write_text(_NAME)
    orders = ApiOrders.model_validate_json(sys.stdin.read())
    heartbeat = Heartbeat.of_environment()
    try:
        service = open_service(orders.engine_dir, orders.options, orders.triton, heartbeat)
    except (InflightError, OSError) as error:
        console.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        sys.exit(1)

    def hanging() -> str | None:
        step = heartbeat.running_step()
        return None if step is None or step.age_s < orders.options.hang_s else f"The engine hangs: {step}."

    gate = Gate(create_app(service, orders.options.allowed_origins), hanging)
    config = uvicorn.Config(
        gate,
        host=orders.options.host,
        port=orders.options.port,
        log_level="warning",
        http=BoundedHead,
        ws="none",
        timeout_graceful_shutdown=int(_LAST_WORDS_S),
    )
    _Server(config, gate, service.backend, orders.options.drain_s).run()


class _Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn's types are not looked at
    """Answers 503 after SIGTERM while running requests go on, for `drain_s` seconds at most; what then still runs ends
    with an error."""

    def __init__(self, config: uvicorn.Config, gate: Gate, backend: TokenBackend, drain_s: float) -> None:
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
