"""An engine that fails while it serves: every client hears the cause, and the server stops calling itself healthy."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.repository import write_repository
from inflight.triton_backend.launch.server import ServerAddress, TritonServer
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import MODEL, free_ports, running_shim
from tests.endpoint.operations.failing_engine import CAUSE, FAILING, FailingExecutor
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

# The model of the repository, over that executor.
FAILING_MODEL = f"""{FAILING}
from inflight.triton_backend.tensorrt_llm.model import TritonPythonModel as TritonPythonModel
"""


@pytest.fixture
def failing_embedded(engine: Path) -> Iterator[str]:
    executor = FailingExecutor(read_engine_directory(engine).manifest, num_blocks=5000)
    backend = EmbeddedBackend(EngineThread(EngineCore(executor)))
    with running_shim(engine, backend) as url:
        yield url


@pytest.fixture
def failing_triton(installation: TritonInstallation, engine: Path, tmp_path: Path) -> Iterator[str]:
    repository = write_repository(engine, tmp_path / "models").path
    (repository / "tensorrt_llm" / "1" / "model.py").write_text(FAILING_MODEL)
    http, grpc, metrics = free_ports(3)
    address = ServerAddress(http_port=http, grpc_port=grpc, metrics_port=metrics)
    with TritonServer(installation, repository, address, tmp_path / "log") as server:
        server.wait_until_ready(PATIENCE_S)
        with running_shim(engine, TritonBackend(address.grpc_url)) as url:
            yield url


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", ["embedded", "triton"])
def test_every_client_hears_the_cause_and_health_turns_503(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"failing_{kind}")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    body = {"model": MODEL, "prompt": "fox", "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    together = threading.Barrier(4)

    def ask(number: int) -> str:
        together.wait()
        with pytest.raises(openai.InternalServerError) as failed:
            client.completions.create(**body)
        return str(failed.value)

    with client, ThreadPoolExecutor(4) as pool:
        assert all(CAUSE in message for message in pool.map(ask, range(4)))
        with pytest.raises(openai.InternalServerError, match=CAUSE):
            client.completions.create(**{**body, "max_tokens": 5})
        with pytest.raises(urllib.error.HTTPError) as unhealthy:
            urllib.request.urlopen(f"{url}/health", timeout=PATIENCE_S)
    assert unhealthy.value.code == 503
    assert CAUSE in json.loads(unhealthy.value.read())["error"]["message"]
