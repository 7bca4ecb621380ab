"""Clients that connect and leave, at every point of a request."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import ExitStack
from typing import Any

import numpy as np

from tests.faults.raw_client import raw_connection, request
from tests.faults.served import MODEL, Served
from tests.patience import PATIENCE_S, eventually

# Where a client leaves: before a byte is sent, within the head or the body, when all is sent (it may still be queued,
# and nothing has been read), after some of the stream, and after more of it.
POINTS = ("connected", "head", "body", "queued", "stream", "late")
_LONG = 20_000
# A line for each so many clients, so that a long run shows how far it is.
_SHOWN = 1000
# Model of Triton -> tokens. Triton passes no client's leaving through `ensemble`: what is asked of it runs to its end.
_TRITON_MODELS = {"tensorrt_llm_bls": _LONG, "ensemble": 200}
_AT_ONCE = 100


async def leave_many(server: Served, clients: int, rng: np.random.Generator) -> tuple[Counter[str], list[str]]:
    """How many left at which point, and what went wrong for them: those that could not even connect or send."""
    left: Counter[str] = Counter()
    problems: list[str] = []
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(point: str, seed: int) -> None:
        async with limit:
            try:
                await asyncio.wait_for(_leave(server, point, np.random.default_rng(seed)), PATIENCE_S)
                left[point] += 1
            except asyncio.TimeoutError:
                problems.append(f"a client that leaves at {point!r} hangs")
            except OSError as error:
                # A server may close first where it has had enough of half a request; to connect must be possible.
                if point == "connected":
                    problems.append(f"a client could not connect: {error}")
                left[point] += 1
        if (done := sum(left.values()) + len(problems)) % _SHOWN == 0:
            print(f"{done} of {clients} clients have left", flush=True)

    points = [POINTS[number % len(POINTS)] for number in range(clients)]
    await asyncio.gather(*(one(point, int(rng.integers(1 << 62))) for point in points))
    return left, problems


async def leave_at_once(server: Served) -> None:
    """As many clients as are ever there at the same time, on each port: all leave when the server has all of them."""
    body = {"model": MODEL, "prompt": "at once", "max_tokens": _LONG, "ignore_eos": True, "stream": True}
    asked: list[tuple[int, str, dict[str, Any]]] = [(server.port, "/v1/completions", body)]
    if server.mode == "triton":
        path = "/v2/models/tensorrt_llm_bls/generate_stream"
        body = {"text_input": "at once", "max_tokens": _LONG, "stream": True, "end_id": -1}
        asked.append((server.triton_http, path, body))
    count, most = ("active", 2 * _AT_ONCE) if server.mode == "triton" else ("requests", _AT_ONCE)
    with ExitStack() as stack:
        for port, path, body in asked * _AT_ONCE:
            connection = stack.enter_context(raw_connection())
            await connection.connect(port)
            await connection.send(b"".join(request(path, body)))
        there = await asyncio.to_thread(eventually, lambda: server.unfinished()[count] >= most)
        assert there, server.unfinished()


async def _leave(server: Served, point: str, rng: np.random.Generator) -> None:
    # Who reads a part of the answer asks for a stream: the whole would take minutes.
    port, path, body = _random_request(server, rng, stream=point in ("stream", "late") or bool(rng.integers(2)))
    head, data = request(path, body)
    with raw_connection() as connection:
        await connection.connect(port)
        sent = {
            "connected": b"",
            "head": head[: int(rng.integers(1, len(head)))],
            "body": head + data[: int(rng.integers(0, len(data)))],
        }.get(point, head + data)
        if sent:
            await connection.send(sent)
        await asyncio.sleep(float(rng.uniform(0, 0.05)))
        wanted = {"stream": int(rng.integers(1, 4000)), "late": int(rng.integers(4000, 16_000))}.get(point, 0)
        while wanted > 0 and (piece := await connection.receive(min(wanted, 4096))):
            wanted -= len(piece)
        if rng.integers(2):
            connection.reset()


def _random_request(server: Served, rng: np.random.Generator, *, stream: bool) -> tuple[int, str, dict[str, Any]]:
    """Port, path and body of a long request: to the shim, or to Triton itself."""
    prompt, seed = f"leaving {rng.integers(1 << 30)}", int(rng.integers(1 << 30))
    if server.mode == "triton" and rng.integers(2):
        model = str(rng.choice(list(_TRITON_MODELS)))
        body = {"text_input": prompt, "max_tokens": _TRITON_MODELS[model], "seed": seed, "stream": True, "end_id": -1}
        return server.triton_http, f"/v2/models/{model}/generate_stream", body
    body = {"model": MODEL, "max_tokens": _LONG, "seed": seed, "ignore_eos": True, "stream": stream}
    if rng.integers(2):
        messages = [{"role": "user", "content": prompt}]
        return server.port, "/v1/chat/completions", {**body, "messages": messages}
    return server.port, "/v1/completions", {**body, "prompt": prompt}


def describe(left: Counter[str]) -> str:
    return f"{sum(left.values())} left: {json.dumps(dict(left))}"
