"""Serves an engine until it is stopped: Triton with the shim in front, or the shim alone."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from rich.console import RenderableType

from inflight.cache import writable_cache_dir
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import InflightError
from inflight.records import Record
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.registry import find_loader
from inflight.runtime.kv_cache.budget import KvCacheBudget, plan_num_blocks
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import load_engine
from inflight.runtime.loading.memory_table import memory_table
from inflight.runtime.scheduler.admission import Policy
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.launch.installation import find_triton
from inflight.triton_backend.launch.repository import RepositoryOptions, write_repository
from inflight.triton_backend.launch.server import ServerAddress, TritonServer, check_port, reachable
from inflight.triton_backend.openai.app import create_app
from inflight.triton_backend.openai.backends.base import TokenBackend
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from inflight.triton_backend.openai.backends.triton import TritonBackend
from inflight.triton_backend.openai.limits import MAX_BODY_BYTES
from inflight.triton_backend.openai.metrics import ShimMetrics
from inflight.triton_backend.openai.service import Service

Say = Callable[[RenderableType], None]
_SHUTDOWN_S = 5


class ServeOptions(Record):
    """How to serve. `threads` None: every core; KV limits as in KvCacheBudget; `model_name` is what answers say; any
    name is taken in requests unless `strict_model_name`. `allowed_origins`: web pages that may call the API (CORS)."""

    model_name: str
    strict_model_name: bool = False
    allowed_origins: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 9000
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    embedded: bool = False
    threads: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_tokens: int | None = None
    kv_cache_fraction: float = 0.9
    policy: Policy = "guaranteed_no_evict"
    prefix_caching: bool = True
    max_queue_size: int = 0
    max_body_bytes: int = MAX_BODY_BYTES

    @property
    def budget(self) -> KvCacheBudget:
        return KvCacheBudget(self.kv_cache_bytes, self.kv_cache_tokens, self.kv_cache_fraction)


@dataclass(frozen=True, slots=True)
class PlannedEngine:
    """The size of an engine before it is loaded."""

    manifest: EngineManifest
    num_blocks: int


def serve_engine(engine_dir: Path, options: ServeOptions, say: Say) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. `say` gets messages for the user.

    Where Triton cannot run, says why and serves from this process. Raises InflightError when a port is taken, the
    engine has no tokenizer, or it cannot be loaded.
    """
    check_port(options.host, options.port, "--port")
    engine = read_engine_directory(engine_dir)
    tokenizer = load_tokenizer(engine_dir / "tokenizer")
    free = find_loader(engine.manifest.target).free_memory()
    num_blocks = plan_num_blocks(engine.manifest, options.budget, free, engine_dir)
    say(memory_table(PlannedEngine(engine.manifest, num_blocks)))
    with _signals_interrupt():
        try:
            with _backend(engine_dir, options, say) as backend:
                service = Service(
                    options.model_name,
                    engine.manifest,
                    tokenizer,
                    backend,
                    ShimMetrics(),
                    strict_model_name=options.strict_model_name,
                    max_body_bytes=options.max_body_bytes,
                )
                _run_shim(service, options, say)
        except KeyboardInterrupt:
            say("Stopped.")


@contextmanager
def _backend(engine_dir: Path, options: ServeOptions, say: Say) -> Iterator[TokenBackend]:
    """Triton where it can run, else the engine in this process."""
    with ExitStack() as stack:
        url, reason = None, "--embedded was given."
        if not options.embedded:
            url, reason = _start_triton(engine_dir, options, say, stack)
        if url is not None:
            yield TritonBackend(url)
            return
        say(f"Serving from this process, without Triton: {reason}")
        yield EmbeddedBackend(_engine_thread(engine_dir, options))


def _start_triton(engine_dir: Path, options: ServeOptions, say: Say, stack: ExitStack) -> tuple[str | None, str]:
    """The gRPC address of a server that `stack` stops, or None and why not. Raises InflightError for a taken port."""
    installation = find_triton()
    if isinstance(installation, str):
        return None, installation
    address = ServerAddress(options.host, options.http_port, options.grpc_port, options.metrics_port)
    address.check_ports()
    parent = stack.enter_context(tempfile.TemporaryDirectory(prefix="inflight-"))
    repository = write_repository(engine_dir, Path(parent) / "models", RepositoryOptions(_overrides(options))).path
    log = writable_cache_dir() / "logs" / f"triton-{options.http_port}.log"
    say(f"Starting Triton ({installation.origin}); its log: {log}")
    server = stack.enter_context(TritonServer(installation, repository, address, log))
    try:
        server.wait_until_ready()
    except InflightError as error:
        server.stop()
        return None, str(error)
    say(f"Triton is ready: HTTP {address.http_port}, gRPC {address.grpc_port}, metrics {address.metrics_port}.")
    return address.grpc_url, ""


def _overrides(options: ServeOptions) -> dict[str, str]:
    """The options that the model `tensorrt_llm` reads, as template variables."""
    values = {
        "threads": options.threads,
        "kv_cache_bytes": options.kv_cache_bytes,
        "max_tokens_in_paged_kv_cache": options.kv_cache_tokens,
        "kv_cache_free_gpu_mem_fraction": options.kv_cache_fraction,
        "batch_scheduler_policy": options.policy,
        "enable_kv_cache_reuse": str(options.prefix_caching).lower(),
        "max_queue_size": options.max_queue_size,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _engine_thread(engine_dir: Path, options: ServeOptions) -> EngineThread:
    executor = load_engine(engine_dir, threads=options.threads, kv_cache=options.budget)
    config = SchedulerConfig(
        policy=options.policy,
        enable_prefix_caching=options.prefix_caching,
        max_queue_size=options.max_queue_size,
    )
    return EngineThread(EngineCore(executor, config))


def _run_shim(service: Service, options: ServeOptions, say: Say) -> None:
    config = uvicorn.Config(
        create_app(service, options.allowed_origins),
        host=options.host,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    url = f"http://{reachable(options.host)}:{options.port}"
    say(f"OpenAI API at {url}/v1, model {options.model_name!r}. Ctrl-C stops.")
    uvicorn.Server(config).run()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM ends the process as Ctrl-C does, so that Triton is always stopped with us; and so does SIGHUP, for a
    terminal that is closed, unless it is ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)  # Which the web server handles in its own way while it runs.

    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, terminate)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
