"""Which processes of a server's models count as dead, while models come and go as no real server does on demand."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.server import ServerAddress
from inflight.triton_backend.launch.several.triton_server import ExplicitTritonServer
from tests.endpoint.conftest import free_ports
from tests.patience import eventually

# Python models without a model: what the watcher asks of a server, and processes of its own. A model that goes goes
# between two of the watcher's questions.
_SERVER = """#!{python}
import http.server, json, subprocess, sys

port = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--http-port="))
processes, ready, goes = [], True, False


def begin():
    processes.append(subprocess.Popen(["/bin/sh", "{model}"], stdin=subprocess.PIPE))


def end():
    process = processes.pop(0)
    process.kill()
    process.wait()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global ready, goes
        status, answer = 200, {{}}
        if self.path == "/load":
            begin(), end()
        elif self.path == "/die":
            end()
        elif self.path == "/goes":
            goes = True
        elif self.path == "/v2/repository/index":
            answer = [{{"name": "x", "state": "READY" if ready else "UNAVAILABLE"}}]
        elif self.path == "/v2/models/x/config" and goes:
            end()
            status, ready = 404, False
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


begin()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ExplicitTritonServer]:
    model, script = tmp_path / "models" / "x" / "1" / "model.py", tmp_path / "server"
    model.parent.mkdir(parents=True)
    model.write_text("read -r _")
    script.write_text(_SERVER.format(python=sys.executable, model=model))
    script.chmod(0o755)
    http, grpc, metrics = free_ports(3)
    address = ServerAddress(http_port=http, grpc_port=grpc, metrics_port=metrics)
    installation = TritonInstallation(script, tmp_path, (), "test")
    found = ExplicitTritonServer(installation, tmp_path / "models", address, tmp_path / "log")
    found.start()
    try:
        assert eventually(found.is_ready)
        found.watch_models()
        yield found
    finally:
        found.kill()


def tell(server: ExplicitTritonServer, what: str) -> None:
    urllib.request.urlopen(f"{server.address.http_url}/{what}", timeout=10).read()


def test_a_model_that_is_unloaded_between_two_questions_has_not_died(server: ExplicitTritonServer) -> None:
    assert server.death() is None
    tell(server, "load")
    tell(server, "goes")
    assert server.death() is None
    assert server.death() is None


def test_a_model_that_stays_ready_without_a_process_has_died(server: ExplicitTritonServer) -> None:
    tell(server, "load")
    assert server.death() is None
    tell(server, "die")
    assert "the process of Triton's model x" in (server.death() or "")
