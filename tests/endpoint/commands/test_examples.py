"""The client programs of examples/, run as a user runs them, against real servers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inflight.triton_backend.launch.server import TritonServer
from tests.paths import EXAMPLES
from tests.pipeline.shipped.test_examples import OFFLINE

pytestmark = pytest.mark.endpoint


def test_the_openai_client_runs(shim: str) -> None:
    run("openai_chat.py", f"{shim}/v1")


def test_the_triton_client_runs(triton: TritonServer) -> None:
    run("triton_streaming.py", triton.address.grpc_url)


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*OFFLINE, "openai_chat.py", "triton_streaming.py"}


def run(program: str, address: str) -> None:
    command = [sys.executable, str(EXAMPLES / program), address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
