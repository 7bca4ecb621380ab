"""The process of the OpenAI-compatible API: in front of Triton, or with the engine in it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import uvicorn
from msgspec import UNSET

from inflight.errors import InflightError
from inflight.progress import console
from inflight.records import Record
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.loading.accuracy import engine_accuracy
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import load_engine
from inflight.runtime.pooling.thread import PoolingThread
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.launch.api.bounded_head import BoundedHead
from inflight.triton_backend.launch.api.gate import Gate
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.openai.app import create_app
from inflight.triton_backend.openai.backends.base import TokenBackend
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from inflight.triton_backend.openai.backends.embedded_pooling import EmbeddedPooling
from inflight.triton_backend.openai.backends.triton import TritonBackend
from inflight.triton_backend.openai.backends.triton_pooling import TritonPooling
from inflight.triton_backend.openai.metrics import ShimMetrics
from inflight.triton_backend.openai.service import Service

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
        engine = read_engine_directory(orders.engine_dir)
        tokenizer = load_tokenizer(orders.engine_dir / "tokenizer")
        backend = _backend(orders, heartbeat, tokenizer)
    except (InflightError, OSError) as error:
        console.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        sys.exit(1)
    service = Service(
        orders.options.model_name,
        engine.manifest,
        tokenizer,
        backend,
        ShimMetrics(),
        strict_model_name=orders.options.strict_model_name,
        max_body_bytes=orders.options.max_body_bytes,
        accuracy=engine_accuracy(orders.engine_dir, engine.manifest).facts(),
        max_queue_size=orders.options.max_queue_size,
        tool_call_parser=orders.options.tool_call_parser,
        reasoning_parser=orders.options.reasoning_parser,
    )

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
    _Server(config, gate, backend, orders.options.drain_s).run()


def _backend(orders: ApiOrders, heartbeat: Heartbeat, tokenizer: Tokenizer) -> TokenBackend:
    if orders.triton is not None:
        pools = read_engine_directory(orders.engine_dir).manifest.pooling is not UNSET
        return TritonPooling(orders.triton) if pools else TritonBackend(orders.triton)
    options = orders.options
    executor = load_engine(orders.engine_dir, threads=options.threads, kv_cache=options.budget)
    if executor.manifest.pooling is not UNSET:
        pooling = cast(PoolingExecutor, executor)
        return EmbeddedPooling(PoolingThread(pooling, heartbeat, max_queue_size=options.max_queue_size))
    config = SchedulerConfig(
        policy=options.policy,
        enable_prefix_caching=options.prefix_caching,
        max_queue_size=options.max_queue_size,
    )
    grammars = GrammarCompiler(lambda: tokenizer, executor.manifest)
    grammars.prepare()
    return EmbeddedBackend(EngineThread(EngineCore(executor, config, heartbeat, grammars, options.offload)))


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
