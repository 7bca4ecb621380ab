"""A client that closes a stream of any dialect ends its request."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from tests.endpoint.conftest import MODEL
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

LONG = 1900
MESSAGES = [{"role": "user", "content": "fox"}]
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": MODEL, "messages": MESSAGES, "max_tokens": LONG, "stream": True},
    "/api/chat": {"model": MODEL, "messages": MESSAGES, "options": {"num_predict": LONG}},
    "/v1/responses": {"model": MODEL, "input": "fox", "max_output_tokens": LONG, "stream": True},
    "/generate_stream": {"inputs": "fox", "parameters": {"max_new_tokens": LONG}},
}


def figure(url: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def wait_until_idle(url: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while figure(url, "inflight_requests_running") and time.monotonic() < end:
        time.sleep(0.01)
    assert not figure(url, "inflight_requests_running")


@pytest.mark.parametrize("path", STREAMS)
def test_who_leaves_ends_the_request(url: str, path: str) -> None:
    """On a machine that is busy an answer may be there before its client is gone, so that it is tried again."""
    tokens: list[float] = []
    while len(tokens) < 5 and not (tokens and tokens[-1] < LONG):
        wait_until_idle(url)
        before = figure(url, "inflight_generation_tokens_total")
        with httpx.stream("POST", url + path, json=STREAMS[path], timeout=PATIENCE_S) as response:
            assert response.status_code == 200
            next(response.iter_bytes())
        wait_until_idle(url)
        tokens.append(figure(url, "inflight_generation_tokens_total") - before)
    assert 0 < tokens[-1] < LONG, tokens
