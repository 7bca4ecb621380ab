"""The server's processes: none is left when it has been stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from inflight.errors import InflightError
from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.repository import write_repository
from inflight.triton_backend.launch.server import ServerAddress, TritonServer
from inflight.triton_backend.launch.supervision.processes import children
from tests.endpoint.conftest import free_ports, running_triton
from tests.endpoint.triton_calls import Stream, ids
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint


def _processes_of(repository: Path) -> list[str]:
    """Command lines of the processes that were started for this repository."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended while we looked
            continue
        if str(repository) in line:
            lines.append(line)
    return lines


def test_a_request_that_never_ends_leaves_no_process_behind(
    installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    with running_triton(installation, engine, tmp_path, {}) as server:
        assert any("tritonserver" in line for line in _processes_of(tmp_path))
        connection = http.client.HTTPConnection("127.0.0.1", server.address.http_port, timeout=PATIENCE_S)
        body = {"text_input": "fox", "max_tokens": 60000, "stream": True, "end_id": -1}
        connection.request("POST", "/v2/models/ensemble/generate_stream", json.dumps(body))
        assert connection.getresponse().read(16)
        connection.close()
    # What was killed may take a moment to be gone; what was forgotten stays.
    assert eventually(lambda: not _processes_of(tmp_path)), _processes_of(tmp_path)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_no_model_outlives_a_server_that_is_killed_where_nothing_watches_over_it(
    installation: TritonInstallation, engine: Path, tmp_path: Path, busy: bool
) -> None:
    with running_triton(installation, engine, tmp_path, {}) as server, ExitStack() as streams:
        for model in ("tensorrt_llm", "tensorrt_llm", "tensorrt_llm_bls") if busy else ():
            asked = {"text_input": "fox", "max_tokens": 60_000} if "bls" in model else ids([5], 60_000)
            stream = streams.enter_context(Stream(server))
            stream.send(model, {**asked, "end_id": -1, "stream" if "bls" in model else "streaming": True})
            stream.receive()
        (pid,) = [pid for pid, line in children(os.getpid()).items() if str(tmp_path) in line]
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not _processes_of(tmp_path)), _processes_of(tmp_path)


def test_a_server_that_is_not_decoupled_ends_by_itself_once_nobody_is_connected(
    installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    with running_triton(installation, engine, tmp_path, {"decoupled_mode": "false"}) as server:
        for model in ("tensorrt_llm_bls", "ensemble"):
            body = json.dumps({"text_input": "fox", "max_tokens": 9}).encode()
            url = f"{server.address.http_url}/v2/models/{model}/generate"
            with urllib.request.urlopen(url, body, timeout=PATIENCE_S) as answer:
                assert "text_output" in json.load(answer)
        server.ask_to_stop()
        assert eventually(lambda: not server.is_running())
        assert "Exit timeout expired" not in server.log.read_text(errors="replace")


def test_a_model_whose_parameter_was_edited_to_what_is_not_possible_is_not_loaded(
    installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    repository = write_repository(engine, tmp_path / "models").path
    wrong = {
        "tensorrt_llm": ("enable_chunked_context", "true", "false"),
        "tensorrt_llm_bls": ("accumulate_tokens", "false", "perhaps"),
    }
    for model, (key, old, new) in wrong.items():
        file = repository / model / "config.pbtxt"
        before = f'key: "{key}" value: {{ string_value: "{old}"'
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, before.replace(f'"{old}"', f'"{new}"')))
    http, grpc, metrics = free_ports(3)
    with (
        TritonServer(
            installation, repository, ServerAddress("127.0.0.1", http, grpc, metrics), tmp_path / "log"
        ) as server,
        pytest.raises(InflightError),
    ):
        server.wait_until_ready(PATIENCE_S)
    log = server.log.read_text(errors="replace")
    for model, (key, _, new) in wrong.items():
        assert f'{model}: {key} is "{new}"; it takes ' in log


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("box", "box"), ("::", "[::1]"), ("fe80::2", "[fe80::2]")],
)
def test_a_server_is_reached_under_an_address_that_urls_take(host: str, expected: str) -> None:
    address = ServerAddress(host, http_port=1, grpc_port=2)
    assert (address.http_url, address.grpc_url) == (f"http://{expected}:1", f"{expected}:2")
