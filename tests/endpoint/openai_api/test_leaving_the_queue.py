"""Clients that hang up while their requests wait in the engine's queue."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from tests.endpoint.openai_api.test_openai_api import metric
from tests.endpoint.triton_calls import metric as triton_metric
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

LONG = 60_000
BATCH = 8


@pytest.fixture(params=["embedded", "triton"])
def queue(request: pytest.FixtureRequest) -> tuple[str, Callable[[], float]]:
    """A shim, and how many sequences wait in its engine."""
    if request.param == "embedded":
        url = str(request.getfixturevalue("embedded_shim"))
        return url, lambda: metric(url, "inflight_engine_waiting")
    triton = request.getfixturevalue("triton")
    url = str(request.getfixturevalue("triton_shim"))
    return url, lambda: triton_metric(triton, "nv_trt_llm_request_metrics", request_type="waiting")


def start(shim: str, path: str, stream: bool) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(shim.removeprefix("http://"), timeout=PATIENCE_S)
    what = {"prompt": "fox"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "fox"}]}
    body = json.dumps({**what, "max_tokens": LONG, "stream": stream, "ignore_eos": True})
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    return connection


@pytest.fixture
def busy(queue: tuple[str, Callable[[], float]]) -> Iterator[None]:
    """Every place in the batch is taken for as long as the test takes."""
    shim, _ = queue
    with ExitStack() as stack:
        for _ in range(BATCH):
            connection = start(shim, "/v1/completions", stream=True)
            stack.callback(connection.close)
            assert stack.enter_context(connection.getresponse()).readline().startswith(b"data: ")
        yield
        assert metric(shim, "inflight_requests_running") == BATCH, "none of them has ended by itself"
    assert eventually(lambda: metric(shim, "inflight_requests_running") == 0)


@pytest.mark.usefixtures("busy")
def test_who_hangs_up_while_waiting_leaves_the_queue(queue: tuple[str, Callable[[], float]]) -> None:
    shim, waiting = queue
    kinds = list(product(("/v1/completions", "/v1/chat/completions"), (True, False)))
    connections = [start(shim, path, stream) for path, stream in kinds]
    assert eventually(lambda: waiting() == len(kinds))
    for connection in connections:
        connection.close()
    assert eventually(lambda: waiting() == 0)
    assert eventually(lambda: metric(shim, "inflight_requests_running") == BATCH)
