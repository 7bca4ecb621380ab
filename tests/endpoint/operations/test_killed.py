"""Any process of a server that is killed in the middle of answers: nobody waits for the dead; it is started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import openai
import pytest
import tritonclient.utils

from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.supervision.processes import children
from tests.endpoint.operations.failing_engine import CAUSE, FAILING
from tests.endpoint.operations.served import (
    MODEL,
    TRITON_MODELS,
    Clients,
    Served,
    gone,
    message_of,
    serving,
    watching_health,
)
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

# What the openai package and httpx make of a connection that is closed.
CLOSED = (openai.APIConnectionError, httpx.TransportError)


@pytest.fixture(scope="module")
def behind_triton(
    installation: TritonInstallation, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving(engine, tmp_path_factory.mktemp("triton")) as served:
        yield served


@pytest.fixture(scope="module")
def embedded(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(engine, tmp_path_factory.mktemp("embedded"), "--embedded") as served:
        yield served


def _expect_unavailable(clients: Clients) -> None:
    """Every request ends with an error in the shape of its API."""
    stream, whole = clients.end("stream"), clients.end("whole")
    assert isinstance(stream, openai.APIError) and "Triton" in message_of(stream), repr(stream)
    assert isinstance(whole, openai.InternalServerError) and whole.status_code == 503, repr(whole)
    assert int(whole.response.headers["Retry-After"]) > 0
    for model in TRITON_MODELS:
        error = clients.end(model)
        assert isinstance(error, tritonclient.utils.InferenceServerException), repr(error)
        assert error.status() == str(grpc.StatusCode.UNAVAILABLE)


# The API first: Triton computes an `ensemble` request whose client has left to its end (docs/limitations.md), which
# takes minutes, unless it is killed.
@pytest.mark.parametrize("victim", ["api", "tensorrt_llm", "tensorrt_llm_bls", "tritonserver"])
def test_what_is_killed_behind_triton_is_started_again(behind_triton: Served, victim: str) -> None:
    before = behind_triton.ask()
    parts = behind_triton.parts()
    clients = Clients(behind_triton, triton=True)
    try:
        with watching_health(behind_triton) as statuses:
            os.kill(parts[victim], signal.SIGKILL)
            if victim == "api":
                assert isinstance(clients.end("stream"), CLOSED) and isinstance(clients.end("whole"), CLOSED)
                assert clients.still_running() == set(TRITON_MODELS)
            else:
                _expect_unavailable(clients)
            assert eventually(lambda: any(status != 200 for status in statuses))
            assert eventually(behind_triton.is_healthy)
    finally:
        clients.leave()
    assert behind_triton.ask() == before
    assert f"pid {parts[victim]}, was killed by SIGKILL" in behind_triton.said()
    changed = {name for name, pid in behind_triton.parts().items() if pid != parts[name]}
    assert changed == ({"api"} if victim == "api" else parts.keys() - {"api"})


def test_the_process_with_the_engine_is_started_again(embedded: Served) -> None:
    before, parts = embedded.ask(), embedded.parts()
    clients = Clients(embedded, triton=False)
    os.kill(parts["api"], signal.SIGKILL)
    assert isinstance(clients.end("stream"), CLOSED) and isinstance(clients.end("whole"), CLOSED)
    clients.leave()
    assert eventually(embedded.is_healthy)
    assert embedded.ask() == before
    assert embedded.parts() != parts


def test_nothing_is_left_when_the_server_itself_is_killed(
    installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    with serving(engine, tmp_path) as served:
        parts = served.parts()
        clients = Clients(served, triton=True)
        served.process.kill()
        for name in ("stream", "whole", *TRITON_MODELS):
            assert clients.end(name) is not None, name
        clients.leave()
        assert len(parts) >= 6
        assert eventually(lambda: gone(parts)), served.parts()


@pytest.mark.parametrize("crashes", ["once", "always"])
def test_triton_that_crashes_while_it_starts_is_started_again_and_after_a_few_times_done_without(
    installation: TritonInstallation, engine: Path, tmp_path: Path, crashes: str
) -> None:
    killed: set[int] = set()

    def crash(served: Served) -> None:
        while not killed or crashes == "always":
            pids = {pid for pid, line in children(served.process.pid).items() if "tritonserver\0" in line}
            for pid in pids - killed:
                os.kill(pid, signal.SIGABRT)
            killed.update(pids)
            if "Serving without Triton" in served.said():
                return
            time.sleep(0.02)

    with serving(engine, tmp_path, meanwhile=crash) as served:
        assert ("tritonserver" in served.parts()) == (crashes == "once"), served.said()
        assert "was killed by SIGABRT, while the server was starting. Triton starts again" in served.said()
        assert served.ask()


def test_never_restarting_the_server_says_what_died_and_exits(
    installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    with serving(engine, tmp_path, "--restart", "never") as served:
        parts = served.parts()
        clients = Clients(served, triton=True)
        os.kill(parts["tensorrt_llm"], signal.SIGKILL)
        _expect_unavailable(clients)
        clients.leave()
        assert served.process.wait(PATIENCE_S) == 3
        assert "--restart never" in served.said() and "tensorrt_llm" in served.said()
        assert "Traceback" not in served.said()
        assert eventually(lambda: gone(parts))


def _expect_failure_and_recovery(served: Served) -> None:
    before = served.ask()
    with served.client() as client, pytest.raises(openai.InternalServerError, match=CAUSE):
        client.completions.create(model=MODEL, prompt="fox", max_tokens=1000, extra_body={"ignore_eos": True})
    assert eventually(lambda: f"The engine has failed: {CAUSE}" in served.said() and served.is_healthy())
    assert served.ask() == before


def test_an_engine_that_fails_is_loaded_again(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING)  # which Python imports as it starts
    with serving(engine, tmp_path, "--embedded", environment={"PYTHONPATH": str(tmp_path)}) as served:
        _expect_failure_and_recovery(served)


def test_an_engine_that_fails_behind_triton_is_loaded_again(
    installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    with serving(engine, tmp_path) as served:
        parts = served.parts()
        model = Path(children(parts["tritonserver"])[parts["tensorrt_llm"]].split("\0")[1])
        model.write_text(FAILING + model.read_text().replace("from __future__ import annotations", ""))
        os.kill(parts["tritonserver"], signal.SIGKILL)  # so that it is loaded with the fault
        assert eventually(lambda: served.said().count("Triton is ready") == 2 and served.is_healthy())
        _expect_failure_and_recovery(served)
