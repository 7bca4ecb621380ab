"""The packages that people use are told to call nobody but the server."""

from __future__ import annotations

import os

# Read when the packages are imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_TELEMETRY"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["LANGCHAIN_TRACING_V2"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"

import socket
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test of a client that calls anybody else fails."""
    calls: list[Any] = []
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            calls.append(address)
            raise OSError(f"not in a test: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)
    yield
    assert not calls
