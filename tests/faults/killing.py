"""Processes of a server that are killed or stopped while it answers."""

from __future__ import annotations

import asyncio
import http.client
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.faults.processes import alive, kill
from tests.faults.raw_client import events, parse, raw_connection, request
from tests.faults.report import Row
from tests.faults.served import MODEL, Mode, Served
from tests.patience import PATIENCE_S, eventually

# Whose death is looked at, and whose halt. The engine of the embedded mode is in the process of the API.
VICTIMS: dict[Mode, tuple[str, ...]] = {
    "embedded": ("api",),
    "triton": ("engine", "tensorrt_llm_bls", "tritonserver", "api"),
}
HALTED: dict[Mode, tuple[str, ...]] = {"embedded": ("api",), "triton": ("engine", "tritonserver", "api")}
END_S = 2.0
_REQUESTS, _BEGUN = 12, 4
_LONG = 50_000
# Triton's models that answer once; it does not notice that their HTTP clients leave.
_UNARY = ("tensorrt_llm_bls_unary", "ensemble_unary")


@dataclass(frozen=True)
class Ending:
    """How an open request ended, `after` so many seconds; `told`: its client can tell that the answer is not whole."""

    after: float
    told: bool
    how: str


async def kill_role(server: Served, role: str, end_s: float) -> list[Row]:
    """kill -9 of one process while streams and unary requests are open: all end in time and know it, readiness turns,
    and the service comes back."""
    before = sorted(each.role for each in server.processes())
    # Triton's own clients hear nothing of the API.
    requests = await _open(server, direct=role != "api")
    victim = server.pids(role)[0]
    kill(victim)
    start = time.monotonic()
    turned = asyncio.create_task(asyncio.to_thread(_turns, server, PATIENCE_S))
    endings = await asyncio.gather(*(_ending(task, start) for task in requests))
    after = await turned
    back = await asyncio.to_thread(eventually, lambda: not server.is_running or server.is_ready())
    back = back and server.is_running
    took = time.monotonic() - start
    now = sorted(each.role for each in server.processes())
    late = [each for each in endings if each.after > end_s]
    untold = [each for each in endings if not each.told]
    slowest = max(each.after for each in endings)
    rows = [
        ("every open request ends", not late, f"{len(endings)} requests, the slowest after {slowest:.1f} s"),
        ("every client is told", not untold, _how(endings)),
        ("readiness turns", after is not None, "never" if after is None else f"after {after:.1f} s"),
        ("the service returns", back, f"after {took:.1f} s"),
        ("with the same processes", now == before, f"{len(now)} of {len(before)}"),
    ]
    return [Row(server.mode, f"kill -9 {role}", *row) for row in rows]


async def stop_role(server: Served, role: str, seconds: float) -> list[Row]:
    """SIGSTOP of one process for a while: afterwards every open request ends, rightly or with an error."""
    requests = await _open(server, long=1000)
    victim = server.pids(role)[0]
    kill(victim, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    kill(victim, signal.SIGCONT)
    start = time.monotonic()
    endings = await asyncio.gather(*(_ending(task, start) for task in requests))
    back = await asyncio.to_thread(eventually, lambda: not server.is_running or server.is_ready())
    hanging = [each for each in endings if each.how == "hangs"]
    how = _how(endings)
    return [
        Row(server.mode, f"SIGSTOP {role}", "every open request ends", not hanging, how),
        Row(server.mode, f"SIGSTOP {role}", "the service goes on", back and server.is_running, f"{seconds:.0f} s"),
    ]


async def kill_all_of(server: Served) -> list[Row]:
    """kill -9 of the server itself: nothing that it started is left, and its ports are free."""
    requests = await _open(server)
    pids = [each.pid for each in server.processes()]
    kill(server.process.pid)
    start = time.monotonic()
    endings = await asyncio.gather(*(_ending(task, start) for task in requests))
    gone = await asyncio.to_thread(_within, lambda: not any(alive(pid) for pid in pids[1:]), 20.0)
    left = [pid for pid in pids[1:] if alive(pid)]
    for pid in left:
        kill(pid)
    slowest = max(each.after for each in endings)
    return [
        Row(
            server.mode, "kill -9 serve", "every client is told", all(each.told for each in endings), f"{slowest:.1f} s"
        ),
        Row(server.mode, "kill -9 serve", "no orphan is left", gone, f"{len(left)} of {len(pids) - 1} live on"),
    ]


async def stop_server(server: Served, drain_s: float, end_s: float) -> list[Row]:
    """SIGTERM while requests are open that do not end by themselves, while other clients have left theirs, and while
    some are connected and ask for nothing: all that stay are told, and the server ends soon after `drain_s`."""
    requests = await _open(server)
    with ExitStack() as idle:
        for port in (server.port, server.triton_http) if server.mode == "triton" else (server.port,):
            await idle.enter_context(raw_connection()).connect(port)
        for model in _UNARY if server.mode == "triton" else ():
            head, data = request(
                f"/v2/models/{model}/generate", {"text_input": "left", "max_tokens": _LONG, "end_id": -1}
            )
            with raw_connection() as connection:
                await connection.connect(server.triton_http)
                await connection.send(head + data)
        kill(server.process.pid, signal.SIGTERM)
        start = time.monotonic()
        endings = await asyncio.gather(*(_ending(task, start) for task in requests))
        code = await asyncio.to_thread(server.process.wait, PATIENCE_S)
        took = time.monotonic() - start
    return [
        Row(
            server.mode,
            "SIGTERM, clients stay",
            "every client is told",
            all(each.told for each in endings),
            _how(endings),
        ),
        Row(
            server.mode,
            "SIGTERM, clients stay",
            "it ends in time",
            took <= drain_s + end_s,
            f"{took:.1f} s, {drain_s:.0f} to drain",
        ),
        Row(
            server.mode,
            "SIGTERM, clients stay",
            "exit code 0, no process",
            code == 0 and not server.left(),
            f"code {code}",
        ),
    ]


def _how(endings: Sequence[Ending]) -> str:
    return ", ".join(sorted({each.how for each in endings}))


def _within(holds: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _turns(server: Served, limit: float) -> float | None:
    """Seconds until the server no longer calls itself ready, None when that does not happen."""
    start = time.monotonic()
    while time.monotonic() - start < limit:
        if not server.is_ready():
            return time.monotonic() - start
        time.sleep(0.05)
    return None


async def _open(server: Served, long: int = _LONG, *, direct: bool = True) -> list[asyncio.Task[bytes]]:
    """Requests under way, three of four of them streams; the first few have begun. `direct`: some are Triton's own."""
    rng = np.random.default_rng()
    tasks = []
    # All of the first few have room at once; those behind them may be queued: it is enough that they were sent.
    for numbers in (range(_BEGUN), range(_BEGUN, _REQUESTS)):
        begun = [asyncio.Event() for _ in numbers]
        tasks += [
            asyncio.create_task(_request(server, number, int(rng.integers(1 << 30)), long, event, direct))
            for number, event in zip(numbers, begun, strict=True)
        ]
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), PATIENCE_S)
    return tasks


async def _request(server: Served, number: int, seed: int, long: int, begun: asyncio.Event, direct: bool) -> bytes:
    stream = number % 4 != 3
    port, path = server.port, "/v1/completions"
    body = {"model": MODEL, "prompt": f"open {seed}", "max_tokens": long, "seed": seed, "stream": stream}
    body["ignore_eos"] = True
    if direct and server.mode == "triton" and number % 4 == 1:
        port, path = server.triton_http, "/v2/models/tensorrt_llm_bls/generate_stream"
        body = {"text_input": f"open {seed}", "max_tokens": long, "seed": seed, "stream": True, "end_id": -1}
    head, data = request(path, body)
    with raw_connection() as connection:
        await connection.connect(port)
        await connection.send(head + data)
        received = b""
        if stream and number < _BEGUN:
            received = await connection.receive(1 << 12)
        begun.set()
        try:
            while piece := await connection.receive(1 << 16):
                received += piece
        except OSError:
            received += b"\0reset"
    return received


async def _ending(task: asyncio.Task[bytes], start: float) -> Ending:
    try:
        received = await asyncio.wait_for(task, PATIENCE_S)
    except asyncio.TimeoutError:
        return Ending(PATIENCE_S, False, "hangs")
    after = time.monotonic() - start
    if not received or received.endswith(b"\0reset"):
        return Ending(after, True, "connection closed")
    try:
        status, body = parse(received)
    except http.client.HTTPException:
        return Ending(after, True, "cut short")
    if status != 200:
        return Ending(after, status >= 500 and b'"error"' in body, f"status {status}")
    if not body.startswith(b"data:"):
        return Ending(after, False, "an answer that looks whole")
    found = events(body)
    if any(isinstance(event, dict) and "error" in event for event in found):
        return Ending(after, True, "error event")
    return Ending(after, False, "a stream that looks whole")
