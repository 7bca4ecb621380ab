"""Any JSON in any place: an answer or an error of the API, never a failure, and the same in both modes."""

from __future__ import annotations

import http.client
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from inflight.triton_backend.openai.protocol.chat import ChatBody
from inflight.triton_backend.openai.protocol.completion import CompletionBody
from inflight.triton_backend.openai.protocol.messages import Message
from tests.endpoint.dialects import bodies
from tests.endpoint.openai_api.mutations import GOOD, Call, draw
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

# Without the one that could make an answer long.
NAMES = sorted({*ChatBody.model_fields, *CompletionBody.model_fields, *Message.model_fields} - {"ignore_eos"})


def run(shim: str, call: Call) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(shim.removeprefix("http://"), timeout=PATIENCE_S)
    headers = {"Content-Type": call.content_type} if call.content_type else {}
    try:
        connection.request(call.method, call.path, call.body, headers)
        with connection.getresponse() as response:
            return response.status, response.read()
    finally:
        connection.close()


def problem(answer: tuple[int, bytes], call: Call) -> str | None:
    """What is wrong with an answer."""
    status, content = answer
    if status >= 500 or b"Traceback" in content:
        return f"{status} {content[:300]!r}"
    if status >= 400:
        if call.method == "HEAD":
            return None
        return None if bodies.is_error(call.path, content) else f"{status} {content[:300]!r}"
    # An error in the middle of a stream is an answer that failed.
    is_failed = any(mark in content for mark in (b'data: {"error"', b'data:{"error"', b"event: error"))
    return f"{content[-500:]!r}" if is_failed else None


def check(
    shims: tuple[str, str], seed: int, count: int, good: Mapping[str, Any] = GOOD, names: Sequence[str] = NAMES
) -> None:
    drawn = random.Random(seed)
    calls = [draw(drawn, names, good) for _ in range(count)]
    with ThreadPoolExecutor(4) as pool:
        answers = [list(pool.map(lambda call, shim=shim: run(shim, call), calls)) for shim in shims]
    wrong = []
    for call, embedded, triton in zip(calls, *answers, strict=True):
        found = problem(embedded, call) or problem(triton, call)
        if found is None and embedded[0] != triton[0]:
            found = f"embedded {embedded[0]} {embedded[1][:300]!r}, Triton {triton[0]} {triton[1][:300]!r}"
        if found is not None:
            wrong.append(f"{call.short()}\n  -> {found}")
    assert not wrong, f"{len(wrong)} of {count} with seed {seed}:\n" + "\n".join(wrong[:10])
    for shim in shims:
        fine = Call("POST", "/v1/completions", b'{"prompt": "fox", "max_tokens": 2}')
        assert run(shim, fine)[0] == 200


def test_mutated_bodies_get_an_answer_or_an_error_of_the_api(embedded_shim: str, triton_shim: str, seed: int) -> None:
    check((embedded_shim, triton_shim), seed, 200)


def test_mutated_bodies_of_the_dialects_do(embedded_shim: str, triton_shim: str, seed: int) -> None:
    check((embedded_shim, triton_shim), seed, 150, bodies.GOOD, bodies.NAMES)


@pytest.mark.slow
def test_many_mutated_bodies_do(embedded_shim: str, triton_shim: str, seed: int) -> None:
    check((embedded_shim, triton_shim), seed, 2000)
    check((embedded_shim, triton_shim), seed, 2000, bodies.GOOD, bodies.NAMES)
