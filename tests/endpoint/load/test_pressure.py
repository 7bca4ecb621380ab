"""Clients that hang up and clients that read slowly, while others are served."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.openai_api.test_openai_api import metric
from tests.endpoint.triton_calls import Stream, ids, stream, used_blocks
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

LONG = 60_000
DATA = b"data: "


@contextmanager
def open_stream(shim: str, body: dict[str, Any], receive_buffer: int = 0) -> Iterator[http.client.HTTPResponse]:
    """A streamed completion, read as it comes; `receive_buffer`: bytes that the system may take in ahead of us."""
    host, port = shim.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    connection.sock = socket.socket()
    if receive_buffer:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.sock.settimeout(PATIENCE_S)
    connection.sock.connect((host, int(port)))
    body = {"stream": True, "ignore_eos": True, **body}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    try:
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def text_of(response: http.client.HTTPResponse) -> str:
    """All that is left in a stream."""
    events = [line[len(DATA) :] for line in response if line.startswith(DATA)]
    assert events[-1].strip() == b"[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])


def whole_text(shim: str, body: dict[str, Any]) -> str:
    data = json.dumps({"ignore_eos": True, **body}).encode()
    request = urllib.request.Request(f"{shim}/v1/completions", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        return str(json.load(response)["choices"][0]["text"])


def test_those_who_stay_get_their_text_while_others_hang_up(shim: str, rng: np.random.Generator) -> None:
    bodies = [{"prompt": f"fox {number}", "max_tokens": 200, "seed": number} for number in range(12)]
    alone = [whole_text(shim, body) for body in bodies]
    lines_read = rng.integers(1, 20, len(bodies)).tolist()

    def stay(number: int) -> str:
        with open_stream(shim, bodies[number]) as response:
            return text_of(response)

    def hang_up(number: int) -> None:
        with open_stream(shim, {**bodies[number], "max_tokens": LONG}) as response:
            for _ in range(lines_read[number]):
                response.readline()

    with ThreadPoolExecutor(24) as pool:
        leaving = [pool.submit(hang_up, number) for number in range(len(bodies))]
        staying = list(pool.map(stay, range(len(bodies))))
    assert staying == alone
    assert all(each.result() is None for each in leaving)
    assert eventually(lambda: metric(shim, "inflight_requests_running") == 0)


def test_a_reader_that_pauses_delays_nobody_and_loses_nothing(shim: str) -> None:
    # Some megabytes with the log probabilities: more than the sockets hold.
    slow = {"prompt": "slow", "max_tokens": 2_500, "seed": 1, "logprobs": 5}
    others = [{"prompt": f"fox {number}", "max_tokens": 50, "seed": number} for number in range(16)]
    with open_stream(shim, slow, receive_buffer=1 << 16) as response:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda body: whole_text(shim, body), others))
        slow_text = text_of(response)
    assert slow_text == whole_text(shim, slow)
    assert found == [whole_text(shim, body) for body in others]


def test_the_blocks_of_clients_that_hang_up_are_free_again_and_other_streams_are_whole(
    triton: TritonServer, rng: np.random.Generator
) -> None:
    prompts = rng.integers(3, 200, (8, 5)).tolist()
    more = {"streaming": True, "end_id": -1}

    def tokens(prompt: list[int]) -> list[int]:
        responses = stream(triton, "tensorrt_llm", ids(prompt, 200, **more))
        return [int(token) for response in responses for token in response["output_ids"].reshape(-1)]

    def hang_up(prompt: list[int]) -> None:
        with Stream(triton) as opened:
            opened.send("tensorrt_llm", ids(prompt, LONG, **more))
            opened.receive()

    alone = [tokens(prompt) for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        leaving = [pool.submit(hang_up, prompt) for prompt in prompts]
        assert list(pool.map(tokens, prompts)) == alone
    assert all(each.result() is None for each in leaving)
    assert eventually(lambda: used_blocks(triton) == 0)
