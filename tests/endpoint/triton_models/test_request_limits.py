"""What a request may have at most: at the limit it is served, above it is refused, and nobody else waits meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import resource
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from inflight.runtime.text.prompt_characters import most_characters
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.sampling_parameters import (
    MAX_BAD_WORDS,
    MAX_STOP_TOKEN_IDS,
    MAX_STOPS,
    MAX_WORD_CHARACTERS,
)
from inflight.triton_backend.launch.api.bounded_head import MAX_HEAD_BYTES
from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.openai import limits
from tests.endpoint.triton_calls import ids, stream, texts
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

MAX_SEQ_LEN = 1 << 16
Answer = tuple[int, dict[str, Any]]


def post(shim: str, body: dict[str, Any] | bytes, route: str = "completions") -> Answer:
    """Status and body, of errors too."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{shim}/v1/{route}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def completion(**more: Any) -> dict[str, Any]:
    return {"prompt": "fox", "max_tokens": 1, **more}


def chat(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"messages": messages, "max_tokens": 1}


def parts(count: int) -> dict[str, Any]:
    return chat([{"role": "user", "content": [{"type": "text", "text": "a"}] * count}])


COUNTS: dict[str, tuple[int, Any, str]] = {
    "stop": (MAX_STOPS, lambda n: completion(stop=[f"never {i}" for i in range(n)]), "stop"),
    "stop characters": (MAX_WORD_CHARACTERS, lambda n: completion(stop="x" * n), "stop"),
    "stop_token_ids": (MAX_STOP_TOKEN_IDS, lambda n: completion(stop_token_ids=[3] * n), "stop_token_ids"),
    "bad_words": (MAX_BAD_WORDS, lambda n: completion(bad_words=[f"bad {i}" for i in range(n)]), "bad_words"),
    "messages": (limits.MAX_MESSAGES, lambda n: chat([{"role": "user", "content": "a"}] * n), "messages"),
    "parts": (limits.MAX_CONTENT_PARTS, parts, "messages.content"),
}


@pytest.mark.parametrize("what", COUNTS)
def test_at_the_limit_a_request_is_served_and_above_it_is_refused(shim: str, what: str) -> None:
    most, make, param = COUNTS[what]
    route = "chat/completions" if "messages" in make(1) else "completions"
    status, answer = post(shim, make(most), route)
    assert status == 200, answer
    status, answer = post(shim, make(most + 1), route)
    assert (status, answer["error"]["type"], answer["error"]["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (completion(prompt=["fox"] * (limits.MAX_PROMPTS + 1)), 400, "array_above_max_length"),
        (completion(prompt=["fox"] * 20_000), 400, "array_above_max_length"),
        (completion(prompt=[[5] * (MAX_SEQ_LEN + 1)]), 400, "context_length_exceeded"),
        (completion(stop=["a"] * 100_000), 400, "array_above_max_length"),
        (completion(logit_bias={str(i): 1 for i in range(limits.MAX_LOGIT_BIAS + 1)}), 400, None),
        (completion(metadata={f"{i}" + "x" * 300: "x" for i in range(limits.MAX_METADATA + 1)}), 400, None),
        (completion(user=[[]] * (limits.MAX_CONTAINERS + 1)), 413, "request_too_large"),
        (completion(user=[1] * (limits.MAX_VALUES + 2)), 413, "request_too_large"),
        (b'{"prompt": ' + b"[" * 100_000, 413, "request_too_large"),
    ],
    ids=["prompts", "20000 prompts", "ids", "100000 stops", "logit_bias", "metadata", "lists", "values", "depth"],
)
def test_far_too_much_is_refused(shim: str, body: Any, status: int, code: str | None) -> None:
    found, answer = post(shim, body)
    assert found == status
    assert code in (None, answer["error"]["code"])


def test_a_text_of_more_characters_than_its_tokens_can_have_is_refused(shim: str, engine: Path) -> None:
    most = most_characters(load_tokenizer(engine / "tokenizer"), MAX_SEQ_LEN)
    text = "fox " * (most // 4 + 1)
    assert len(text) < limits.MAX_BODY_BYTES
    for route, body in (
        ("completions", completion(prompt=text)),
        ("completions", completion(prompt=["fox", text])),
        ("chat/completions", chat([{"role": "user", "content": text}])),
    ):
        status, answer = post(shim, body, route)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert f"{len(text)} characters" in answer["error"]["message"]


def test_commas_and_brackets_of_a_text_are_no_values(shim: str) -> None:
    """Too long for the engine, and read all the same."""
    status, answer = post(shim, completion(prompt='[{,\\"' * (limits.MAX_CONTAINERS + 1)))
    assert status == 200 or answer["error"]["code"] == "context_length_exceeded"


def test_a_body_of_the_limit_is_read_and_a_larger_one_is_not(shim: str) -> None:
    body = json.dumps(completion()).encode()
    assert post(shim, body.ljust(limits.MAX_BODY_BYTES))[0] == 200
    status, answer = post(shim, body.ljust(limits.MAX_BODY_BYTES + 1))
    assert (status, answer["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: ",
    ],
    ids=["target", "header", "trailer"],
)
def test_a_head_without_an_end_is_refused(embedded_shim: str, begin: bytes) -> None:
    host, port = embedded_shim.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), PATIENCE_S)) as client:
        client.sendall(begin + b"a" * (MAX_HEAD_BYTES // 2))
        assert post(embedded_shim, completion())[0] == 200
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"a" * MAX_HEAD_BYTES)


def test_a_head_that_comes_in_pieces_below_the_limit_is_read_again_and_again(embedded_shim: str) -> None:
    host, port = embedded_shim.removeprefix("http://").split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)) as client:
        for _ in range(3):
            client.request("POST", "/v1/completions", json.dumps(completion()), {"X": "a" * (MAX_HEAD_BYTES * 3 // 4)})
            answer = client.getresponse()
            answer.read()
            assert answer.status == 400, "without its content type"


def chunks(count: int) -> Iterator[bytes]:
    yield json.dumps(completion()).encode()
    for _ in range(count):
        yield b" " * (1 << 20)


def test_a_body_without_a_length_is_refused_while_it_is_read(shim: str) -> None:
    host, port = shim.removeprefix("http://").split(":")
    for megabytes, status in ((3, 200), (20, 413)):
        with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)) as connection:
            headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
            connection.request("POST", "/v1/completions", chunks(megabytes), headers, encode_chunked=True)
            response = connection.getresponse()
            assert response.status == status
            assert status == 200 or json.load(response)["error"]["code"] == "request_too_large"


def test_slow_bodies_hold_nobody(shim: str) -> None:
    host, port = shim.removeprefix("http://").split(":")
    body = json.dumps(completion()).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    slow = [socket.create_connection((host, int(port)), timeout=PATIENCE_S) for _ in range(50)]
    try:
        for each in slow:
            each.sendall(f"{head}\r\n".encode() + body[:1])
        assert post(shim, completion())[0] == 200
        for each in slow[:25]:
            each.close()
        for each in slow[25:]:
            each.sendall(body[1:])
            assert each.recv(15).startswith(b"HTTP/1.1 200")
    finally:
        for each in slow:
            each.close()


def test_others_are_served_while_too_large_requests_come_in(shim: str) -> None:
    large: list[Any] = [
        completion(prompt="fox " * (5 << 20)),
        completion(stop=["a"] * 100_000),
        completion(prompt=["fox"] * 20_000),
        completion(prompt=[[5]] * 100_000),
    ]
    bodies = [json.dumps(body).encode() for body in large]
    enough = threading.Event()

    def flood(body: bytes) -> set[int]:
        statuses = {post(shim, body)[0]}
        while not enough.is_set():
            statuses.add(post(shim, body)[0])
        return statuses

    with ThreadPoolExecutor(len(bodies)) as pool:
        floods = [pool.submit(flood, body) for body in bodies]
        try:
            small = [post(shim, completion(max_tokens=5))[0] for _ in range(20)]
        finally:
            enough.set()
    assert small == [200] * 20
    assert [each.result() for each in floods] == [{413}, {400}, {400}, {413}]


def test_refused_bodies_leave_no_memory_behind(embedded_shim: str) -> None:
    """The shim is in this process: its peak shows a body that was kept or tokenized, which takes gigabytes."""
    body = json.dumps(completion(prompt="fox " * (5 << 20))).encode()
    assert post(embedded_shim, body)[0] == 413
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10):
        assert post(embedded_shim, body)[0] == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_clients_that_connect_and_leave_leave_nothing(embedded_shim: str) -> None:
    host, port = embedded_shim.removeprefix("http://").split(":")
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    post(embedded_shim, completion())
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1_000):
        with closing(socket.create_connection((host, int(port)), timeout=PATIENCE_S)) as connection:
            connection.sendall(head[: number % (len(head) + 1)])
    assert post(embedded_shim, completion())[0] == 200
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 5)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_texts_and_words_that_are_too_large_are_refused_by_the_models_of_text(
    triton: TritonServer, engine: Path, model: str
) -> None:
    most = most_characters(load_tokenizer(engine / "tokenizer"), MAX_SEQ_LEN)
    asked = {"text_input": "fox", "max_tokens": 2}
    for more, message in (
        ({"text_input": "fox " * (most + 1)}, "bytes, more than"),
        ({"text_input": "fox " * (most // 4 + 1)}, "characters"),
        ({"stop_words": ["a"] * (MAX_STOPS + 1)}, "129 values per request"),
        ({"bad_words": ["a"] * 100_000}, "100000 values per request"),
        ({"bad_words": ["a" * 100_000]}, "100000 bytes"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            stream(triton, model, {**asked, **more})
    for more in ({"stop_words": ["never"] * MAX_STOPS}, {"bad_words": ["bad"] * MAX_BAD_WORDS}):
        assert texts(stream(triton, model, {**asked, **more}))


def test_ids_that_are_too_many_are_refused_before_they_are_read(triton: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match=f"1000000 tokens; this engine takes {MAX_SEQ_LEN}"):
        stream(triton, "tensorrt_llm", ids([5] * 1_000_000, 1))
    with pytest.raises(InferenceServerException, match="embedding_bias has"):
        stream(triton, "tensorrt_llm", ids([5], 1, embedding_bias=[1.0] * 1_000_000))
    # What is padded to more is read as far as it counts.
    assert stream(triton, "tensorrt_llm", {**ids([5] * (MAX_SEQ_LEN + 9), 1), "input_lengths": 3})
