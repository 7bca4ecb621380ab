"""Serves an engine until it is stopped: Triton and the API's process in front, or that process with the engine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET
from rich.console import RenderableType

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import InflightError
from inflight.files.cache import writable_cache_dir
from inflight.runtime.engine.heartbeat import VARIABLE, Heartbeat
from inflight.runtime.executors.registry import find_loader
from inflight.runtime.kv_cache.budget import plan_num_blocks
from inflight.runtime.kv_cache.offload.directory import is_held
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.memory_table import memory_table
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.launch.addresses import resolve_host
from inflight.triton_backend.launch.api.process import ApiProcess
from inflight.triton_backend.launch.installation import find_triton
from inflight.triton_backend.launch.open_files import allow_open_files
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.launch.repository import RepositoryOptions, write_repository
from inflight.triton_backend.launch.server import THREAD_POOL_SIZE, ServerAddress, TritonServer, check_port, reachable
from inflight.triton_backend.launch.several.heartbeats import Heartbeats
from inflight.triton_backend.launch.several.orders import plan_models, write_several
from inflight.triton_backend.launch.several.triton_server import ExplicitTritonServer
from inflight.triton_backend.launch.supervision.scratch import serving_folder
from inflight.triton_backend.launch.supervision.stop_signals import Stop, StopSignals
from inflight.triton_backend.launch.supervision.supervisor import ServerDied, Supervisor, Watched
from inflight.triton_backend.launch.supervision.watchdog import Watchdog

Say = Callable[[RenderableType], None]


@dataclass(frozen=True, slots=True)
class PlannedEngine:
    """The size of an engine before it is loaded."""

    manifest: EngineManifest
    num_blocks: int


def serve_engine(engine_dir: Path, options: ServeOptions, say: Say) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. `say` gets messages for the user.

    Where Triton cannot run, says why and serves without it. Raises InflightError when the host has no address, a port
    is taken, the engine has no tokenizer, or it cannot be loaded; ServerDied when a process of the server died and is
    not started again.
    """
    allow_open_files()
    options = options.model_copy(update={"host": resolve_host(options.host)})
    check_port(options.host, options.port, "--port")
    if not options.models:
        _check_engine(engine_dir, options, say)
    with StopSignals().installed() as signals, serving_folder() as scratch:
        server = _Server(engine_dir, options, say, scratch, signals)
        try:
            server.serve()
        except Stop:
            server.stop()
        except ServerDied:
            server.supervisor.stop(drain_s=0)  # Clients of what still lives hear the error.
            raise
        finally:
            server.supervisor.kill()


def _check_engine(engine_dir: Path, options: ServeOptions, say: Say) -> None:
    """Say what memory the only engine takes. Raises InflightError where it cannot be served."""
    manifest = read_engine_directory(engine_dir).manifest
    if options.offload is not None and manifest.pooling is not UNSET:
        raise InflightError(
            f"{engine_dir} generates no text: it keeps no KV cache from one request to the next.",
            "Leave --kv-offload-dir and --kv-offload-bytes out.",
        )
    load_tokenizer(engine_dir / "tokenizer")
    loader = find_loader(manifest.target)
    free = loader.free_memory()
    num_blocks = plan_num_blocks(manifest, options.budget, free, engine_dir)
    say(memory_table(PlannedEngine(manifest, num_blocks)))
    if loader.caution is not None:
        say(loader.caution)


class _Server:
    """The parts of one server; `scratch` is a folder for its files."""

    def __init__(self, engine_dir: Path, options: ServeOptions, say: Say, scratch: Path, signals: StopSignals) -> None:
        self._engine_dir = engine_dir
        self._options = options
        self._say = say
        self._scratch = scratch
        self._signals = signals
        heartbeat = scratch / "heartbeat"
        self._environment = {VARIABLE: str(heartbeat)}
        self._several = plan_models(options, scratch, _overrides(options)) if options.models else None
        if self._several is not None:
            heartbeat.mkdir()
        self._heartbeat = Heartbeats(heartbeat) if self._several else Heartbeat(heartbeat)
        self._watchdog = Watchdog(self._heartbeat, options.hang_s, say)
        self.supervisor = Supervisor(self._watchdog, signals, options.restart, say)

    def serve(self) -> None:
        """Raises Stop when asked to stop, ServerDied as Supervisor does."""
        reason = "--embedded was given."
        triton = None
        if not self._options.embedded:
            triton, reason = self._start_triton()
        if triton is None:
            self._say(f"Serving without Triton: {reason}")
        self._start_api(triton)
        self.supervisor.watch()

    def stop(self) -> None:
        drain_s = self._options.drain_s
        self._say(f"Stopping. Running requests have {drain_s:.3g} seconds; another Ctrl-C or SIGTERM ends them now.")
        self.supervisor.stop(drain_s)
        if len(self._signals.received) > 1:
            raise SystemExit(128 + self._signals.received[1])
        self._say("Stopped.")

    def _start_triton(self) -> tuple[str | None, str]:
        """The gRPC address of a server, or None and why there is none. Raises InflightError for a taken port."""
        options = self._options
        installation = find_triton()
        if isinstance(installation, str):
            return None, installation
        address = ServerAddress(options.host, options.http_port, options.grpc_port, options.metrics_port)
        options.check_ports_differ()
        address.check_ports()
        if self._several is not None:
            repository = write_several(options, self._several)
        else:
            overrides = RepositoryOptions(_overrides(options))
            repository = write_repository(self._engine_dir, self._scratch / "models", overrides).path
        log = writable_cache_dir() / "logs" / f"triton-{options.http_port}.log"
        self._say(f"Starting Triton ({installation.origin}); its log: {log}")
        kind = TritonServer if self._several is None else ExplicitTritonServer
        server = kind(
            installation,
            repository,
            address,
            log,
            exit_timeout_s=max(1, math.ceil(options.drain_s)),
            more_environment=self._environment,
            is_idle=self._watchdog.idle,
            is_keeping=self._is_keeping,
        )

        def ready() -> None:
            server.watch_models()
            ports = f"HTTP {address.http_port}, gRPC {address.grpc_port}, metrics {address.metrics_port}"
            self._say(f"Triton is ready: {ports}.")

        try:
            self.supervisor.bring_up(Watched("Triton", server, has_engine=True, on_ready=ready))
        except ServerDied as error:
            return None, f"{error}\n{server.log_tail()}"
        return address.grpc_url, ""

    def _is_keeping(self) -> bool:
        """Whether the engine behind Triton, which is stopping, has yet to write blocks of the KV cache. It is asked to
        as soon as it has nothing else to do: Triton may never finalize it."""
        directory = self._options.kv_offload_dir
        if directory is None or not is_held(Path(directory)):
            return False
        if self._watchdog.idle():
            self._heartbeat.ask_to_close()
        return True

    def _start_api(self, triton: str | None) -> None:
        """Raises SystemExit when the process has ended and said why."""
        # This module is not imported there, nor that one here: it imports the web server and what the engine needs.
        options = self._options
        orders = {
            "engine_dir": str(self._engine_dir),
            "options": options.model_dump(mode="json"),
            "triton": triton,
            "several": self._several and self._several.model_dump(mode="json"),
        }
        environment = {**os.environ, **self._environment}
        process = ApiProcess(orders, environment, options.host, options.port)
        url = f"http://{reachable(options.host)}:{options.port}"

        def ready() -> None:
            names = ", ".join(repr(model.name) for model in options.models)
            what = f"models {names}" if names else f"model {options.model_name!r}"
            self._say(f"OpenAI API at {url}/v1, {what}. Ctrl-C stops.")

        try:
            self.supervisor.bring_up(Watched("The API", process, has_engine=triton is None, on_ready=ready))
        except ServerDied:
            if process.last_exit_code == InflightError.exit_code:
                raise SystemExit(InflightError.exit_code) from None
            raise


def _overrides(options: ServeOptions) -> dict[str, str]:
    """The options that the model `tensorrt_llm` reads, as template variables."""
    values = {
        "threads": options.threads,
        "kv_cache_bytes": options.kv_cache_bytes,
        "max_tokens_in_paged_kv_cache": options.kv_cache_tokens,
        "kv_cache_free_gpu_mem_fraction": options.kv_cache_fraction,
        "kv_offload_dir": options.kv_offload_dir,
        "kv_offload_bytes": options.kv_offload_bytes,
        "batch_scheduler_policy": options.policy,
        "enable_kv_cache_reuse": str(options.prefix_caching).lower(),
        "max_queue_size": options.max_queue_size,
        "waiting_served_ratio": options.waiting and options.waiting.served_ratio,
        "max_waiting_tokens": options.waiting and options.waiting.max_tokens,
        "thread_pool_size": THREAD_POOL_SIZE,
    }
    return {name: str(value) for name, value in values.items() if value is not None}
