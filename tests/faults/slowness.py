"""Clients that read, or send, a byte a second."""

from __future__ import annotations

import asyncio
import http.client

import numpy as np

from tests.faults.raw_client import events, parse, raw_connection, request
from tests.faults.served import MODEL, Served
from tests.patience import PATIENCE_S

# More than the buffers of both systems hold, with the log probabilities.
_TOKENS = 1500
_SMALL_BUFFER = 2048


async def read_slowly(server: Served, seconds: float, rng: np.random.Generator) -> list[str]:
    """A stream read a byte a second for so long, then at once; what is wrong with it."""
    return await _slow(server, seconds, int(rng.integers(1 << 30)), sends=False)


async def send_slowly(server: Served, seconds: float, rng: np.random.Generator) -> list[str]:
    """A request sent a byte a second for so long, then the rest; what is wrong with its answer."""
    return await _slow(server, seconds, int(rng.integers(1 << 30)), sends=True)


async def _slow(server: Served, seconds: float, seed: int, *, sends: bool) -> list[str]:
    name = f"{'sender' if sends else 'reader'} {seed}"
    try:
        slow = await asyncio.wait_for(_stream(server, seconds, seed, sends=sends), seconds + PATIENCE_S)
        fast = await asyncio.wait_for(_stream(server, 0, seed, sends=sends), PATIENCE_S)
    except asyncio.TimeoutError:
        return [f"the slow {name} hangs"]
    except (OSError, http.client.HTTPException, ValueError) as error:
        return [f"the slow {name} lost its connection: {error!r}"]
    return [] if slow == fast else [f"the slow {name} got another answer than when it is fast"]


async def _stream(server: Served, seconds: float, seed: int, *, sends: bool) -> str:
    body = {"model": MODEL, "prompt": f"slow {seed}", "max_tokens": _TOKENS, "seed": seed, "stream": True}
    head, data = request("/v1/completions", {**body, "ignore_eos": True, "logprobs": 0 if sends else 5})
    with raw_connection(receive_buffer=_SMALL_BUFFER) as connection:
        await connection.connect(server.port)
        received = b""
        if sends:
            whole = head + data
            for place in range(int(seconds)):
                await connection.send(whole[place : place + 1])
                await asyncio.sleep(1)
            await connection.send(whole[int(seconds) :])
        else:
            await connection.send(head + data)
            for _ in range(int(seconds)):
                received += await connection.receive(1)
                await asyncio.sleep(1)
        status, answer = parse(received + await connection.rest())
    found = events(answer)
    if status != 200 or found[-1] != "[DONE]":
        raise ValueError(f"status {status}, last event {found[-1:]}")
    return "".join(choice["text"] for event in found[:-1] for choice in event["choices"])
