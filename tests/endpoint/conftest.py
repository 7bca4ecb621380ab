"""Real servers for the endpoint tests: tritonserver on a null engine, and the shim over it and over the engine."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import uvicorn

from inflight.errors import InflightError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import load_engine
from inflight.runtime.pooling.thread import PoolingThread
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.launch.api.bounded_head import BoundedHead
from inflight.triton_backend.launch.installation import TritonInstallation, find_triton
from inflight.triton_backend.launch.repository import RepositoryOptions, write_repository
from inflight.triton_backend.launch.server import ServerAddress, TritonServer
from inflight.triton_backend.openai.app import create_app
from inflight.triton_backend.openai.backends.base import TokenBackend
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from inflight.triton_backend.openai.backends.embedded_pooling import EmbeddedPooling
from inflight.triton_backend.openai.backends.triton import TritonBackend
from inflight.triton_backend.openai.backends.triton_pooling import TritonPooling
from inflight.triton_backend.openai.metrics import ShimMetrics
from inflight.triton_backend.openai.service import Service
from tests.endpoint.tools.definitions import HERMES_TEMPLATE
from tests.engines.demo_engine import build_demo_engine
from tests.engines.pooling_engines import write_pooling_engine
from tests.engines.serving_engines import write_null_engine
from tests.patience import PATIENCE_S

MODEL = "tiny"


def free_ports(count: int) -> list[int]:
    """Ports that are free now. Systems give clients none of these: nobody's connection takes one before its server."""
    free: list[int] = []
    while len(free) < count:
        port = 10_000 + secrets.randbelow(20_000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free += [port] if port not in free else []
    return free


@pytest.fixture(scope="session")
def installation() -> TritonInstallation:
    found = find_triton()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@contextmanager
def running_triton(
    installation: TritonInstallation, engine: Path, scratch: Path, overrides: Mapping[str, str]
) -> Iterator[TritonServer]:
    """A ready server on the repository of `engine`."""
    repository = write_repository(engine, scratch / "models", RepositoryOptions(overrides)).path
    http, grpc, metrics = free_ports(3)
    address = ServerAddress(http_port=http, grpc_port=grpc, metrics_port=metrics)
    with TritonServer(installation, repository, address, scratch / "triton.log") as server:
        _wait_until_ready(server)
        yield server


def _wait_until_ready(server: TritonServer, crashes: int = 2) -> None:
    """Triton 2.51 itself can crash while it loads models, where cores are scarce: a lock of its Python backend times
    out. `inflight serve` starts it again (docs/serving.md), and so does this."""
    try:
        server.wait_until_ready(PATIENCE_S)
    except InflightError:
        if crashes == 0 or not server.was_killed():
            raise
        server.kill()
        server.start()
        _wait_until_ready(server, crashes - 1)


@contextmanager
def running_shim(
    engine: Path,
    backend: TokenBackend,
    *,
    strict_model_name: bool = False,
    allowed_origins: Sequence[str] = (),
    max_queue_size: int = 0,
    tool_call_parser: str | None = None,
) -> Iterator[str]:
    """The shim's base URL; it runs on a thread with an event loop of its own."""
    manifest = read_engine_directory(engine).manifest
    tokenizer = load_tokenizer(engine / "tokenizer")
    service = Service(
        MODEL,
        manifest,
        tokenizer,
        backend,
        ShimMetrics(),
        strict_model_name,
        max_queue_size=max_queue_size,
        tool_call_parser=tool_call_parser,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    app = create_app(service, allowed_origins)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http=BoundedHead))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    while not server.started and thread.is_alive():
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A null engine whose sequences may be very long, so that there is time to interrupt one."""
    return write_null_engine(tmp_path_factory.mktemp("null") / "engine", end_tokens=True, max_seq_len=1 << 16)


@pytest.fixture(scope="session")
def triton(
    installation: TritonInstallation, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with running_triton(installation, engine, tmp_path_factory.mktemp("triton"), {}) as server:
        yield server


@contextmanager
def generating_shim(engine: Path, tool_call_parser: str | None = None) -> Iterator[str]:
    """The shim with the engine inside."""
    executor = load_engine(engine)
    grammars = GrammarCompiler(partial(load_tokenizer, engine / "tokenizer"), executor.manifest)
    backend = EmbeddedBackend(EngineThread(EngineCore(executor, grammars=grammars)))
    with running_shim(engine, backend, tool_call_parser=tool_call_parser) as url:
        yield url


@pytest.fixture(scope="session")
def embedded_shim(engine: Path) -> Iterator[str]:
    with generating_shim(engine) as url:
        yield url


@pytest.fixture(scope="session")
def triton_shim(engine: Path, triton: TritonServer) -> Iterator[str]:
    with running_shim(engine, TritonBackend(triton.address.grpc_url)) as url:
        yield url


@pytest.fixture(scope="session")
def demo_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demonstration model, for the cpu target."""
    return build_demo_engine(tmp_path_factory.mktemp("demo"), max_batch_size=8, max_seq_len=1024)


@pytest.fixture(scope="session")
def embedded_demo(demo_engine: Path) -> Iterator[str]:
    with generating_shim(demo_engine) as url:
        yield url


@pytest.fixture(scope="session")
def demo_triton(
    installation: TritonInstallation, demo_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    overrides = {"max_tokens_in_paged_kv_cache": "8192"}
    with running_triton(installation, demo_engine, tmp_path_factory.mktemp("triton"), overrides) as server:
        yield server


@pytest.fixture(scope="session")
def triton_demo(demo_engine: Path, demo_triton: TritonServer) -> Iterator[str]:
    with running_shim(demo_engine, TritonBackend(demo_triton.address.grpc_url)) as url:
        yield url


@pytest.fixture(scope="session")
def embedding_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a random encoder, for ONNX Runtime."""
    return write_pooling_engine(tmp_path_factory.mktemp("embedding"), "embed")


@pytest.fixture(scope="session")
def scoring_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a random cross-encoder, for ONNX Runtime."""
    return write_pooling_engine(tmp_path_factory.mktemp("scoring"), "score")


@contextmanager
def pooling_shim(engine: Path) -> Iterator[str]:
    executor = cast(PoolingExecutor, load_engine(engine, threads=1))
    with running_shim(engine, EmbeddedPooling(PoolingThread(executor))) as url:
        yield url


@pytest.fixture(scope="session")
def embedded_embedding_shim(embedding_engine: Path) -> Iterator[str]:
    with pooling_shim(embedding_engine) as url:
        yield url


@pytest.fixture(scope="session")
def embedding_triton(
    installation: TritonInstallation, embedding_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with running_triton(installation, embedding_engine, tmp_path_factory.mktemp("pooling"), {"threads": "1"}) as server:
        yield server


@pytest.fixture(scope="session")
def triton_embedding_shim(embedding_engine: Path, embedding_triton: TritonServer) -> Iterator[str]:
    with running_shim(embedding_engine, TritonPooling(embedding_triton.address.grpc_url)) as url:
        yield url


@pytest.fixture(params=["embedded", "triton"])
def embedding_shim(request: pytest.FixtureRequest) -> str:
    """The shim over an engine that embeds, over each of its backends."""
    return str(request.getfixturevalue(f"{request.param}_embedding_shim"))


@pytest.fixture(scope="session")
def scoring_shim(scoring_engine: Path) -> Iterator[str]:
    with pooling_shim(scoring_engine) as url:
        yield url


@pytest.fixture(params=["embedded", "triton"])
def shim(request: pytest.FixtureRequest) -> str:
    """The shim over each of its backends."""
    return str(request.getfixturevalue(f"{request.param}_shim"))


@pytest.fixture(scope="session")
def plain_triton(
    installation: TritonInstallation, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A server whose models are not decoupled."""
    overrides = {"decoupled_mode": "false", "exclude_input_in_output": "true"}
    with running_triton(installation, engine, tmp_path_factory.mktemp("plain"), overrides) as server:
        yield server


@pytest.fixture(scope="session")
def tool_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without end tokens: those of null engines are letters."""
    place = tmp_path_factory.mktemp("tools") / "engine"
    return write_null_engine(place, max_seq_len=8192, chat_template=HERMES_TEMPLATE)


@pytest.fixture(scope="session")
def embedded_tool_shim(tool_engine: Path) -> Iterator[str]:
    with generating_shim(tool_engine) as url:
        yield url


@pytest.fixture(scope="session")
def triton_tool_shim(
    installation: TritonInstallation, tool_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with (
        running_triton(installation, tool_engine, tmp_path_factory.mktemp("triton"), {}) as server,
        running_shim(tool_engine, TritonBackend(server.address.grpc_url)) as url,
    ):
        yield url


@pytest.fixture(params=["embedded", "triton"])
def tool_shim(request: pytest.FixtureRequest) -> str:
    """The shim over each of its backends, of an engine that says anything that it may."""
    return str(request.getfixturevalue(f"{request.param}_tool_shim"))
