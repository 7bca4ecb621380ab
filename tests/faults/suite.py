"""All phases, on one server of each mode and on the commands."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.answers import Answers, ask_all, ask_while, missing, random_bodies
from tests.faults.commands import Command, fill_disk_often, interrupt_often
from tests.faults.killing import END_S, HALTED, VICTIMS, kill_all_of, kill_role, stop_role, stop_server
from tests.faults.leaving import describe, leave_at_once, leave_many
from tests.faults.processes import alive
from tests.faults.report import Row
from tests.faults.served import Mode, Served, served
from tests.faults.serving_interrupts import interrupt_serving
from tests.faults.slowness import read_slowly, send_slowly
from tests.patience import PATIENCE_S, eventually

# Descriptors and threads of a process beyond those that it had: pools and caches grow a little while they are used, and
# what a client leaves behind comes in hundreds.
_GROWTH = 16
_SHOWN = 3

Disturb = Callable[[], Awaitable[tuple[str, list[str]]]]


@dataclass(frozen=True)
class Size:
    """How much of everything. `slow_s`, `stop_s`, `drain_s`: seconds; `end_s`: how soon open requests end after a kill,
    or when the time to drain is over."""

    prompts: int = 48
    clients: int = 300
    slow: int = 4
    slow_s: float = 4
    stop_s: float = 4
    drain_s: float = 2
    commands: int = 2
    bodies: int = 100
    files: int = 10
    end_s: float = PATIENCE_S


SHORT = Size()
LONG = Size(
    prompts=240, clients=10_000, slow=32, slow_s=60, stop_s=30, commands=20, bodies=2000, files=200, end_s=END_S
)


async def disturb_clients(mode: Mode, engine: Path, scratch: Path, size: Size, rng: np.random.Generator) -> list[Row]:
    """Slow clients and leaving clients beside those that stay; then the server stops in order."""
    rows: list[Row] = []
    bodies = random_bodies(rng, size.prompts)
    with served(mode, engine, scratch) as server:
        undisturbed = await ask_all(server.url, bodies, at_once=1)
        rows.append(_answered(mode, "undisturbed", undisturbed, undisturbed.texts, list(bodies)))
        # Whatever a server makes once, when it is first needed, is there before anything is counted.
        await leave_at_once(server)
        await asyncio.gather(leave_many(server, 60, rng), ask_all(server.url, bodies, at_once=16))
        await _at_rest(server)
        before = _counts(server)

        async def slow() -> tuple[str, list[str]]:
            readers = [read_slowly(server, size.slow_s, rng) for _ in range(size.slow)]
            senders = [send_slowly(server, size.slow_s, rng) for _ in range(size.slow)]
            found = await asyncio.gather(*readers, *senders)
            return f"{size.slow} readers, {size.slow} senders", [problem for each in found for problem in each]

        async def leaving() -> tuple[str, list[str]]:
            left, problems = await leave_many(server, size.clients, rng)
            return describe(left), problems

        for name, disturb in (("a byte a second", slow), ("leaving", leaving)):
            rows += await _phase(server, name, disturb, bodies, undisturbed.texts, before)
        rows += await asyncio.to_thread(_stop, server)
    return rows


async def disturb_processes(mode: Mode, engine: Path, scratch: Path, size: Size, rng: np.random.Generator) -> list[Row]:
    """Each process is stopped for a while, killed, and at last the server itself."""
    rows: list[Row] = []
    bodies = random_bodies(rng, size.prompts)
    for role in VICTIMS[mode]:
        with served(mode, engine, scratch) as server:
            undisturbed = await ask_all(server.url, bodies, at_once=1)
            killed = await kill_role(server, role, size.end_s)
            rows += killed
            if server.is_running and await asyncio.to_thread(server.is_ready):
                again = await ask_all(server.url, bodies)
                rows.append(_answered(mode, f"kill -9 {role}", again, undisturbed.texts, list(bodies)))
                rows.append(await _at_rest_row(server, f"kill -9 {role}"))
    for role in HALTED[mode]:
        with served(mode, engine, scratch) as server:
            rows += await stop_role(server, role, size.stop_s)
    with served(mode, engine, scratch) as server:
        rows += await kill_all_of(server)
    with served(mode, engine, scratch, "--drain-seconds", str(size.drain_s)) as server:
        rows += await stop_server(server, size.drain_s, size.end_s)
    rows += await asyncio.to_thread(interrupt_serving, mode, engine, scratch, size.commands, rng)
    return rows


def disturb_command(command: Command, scratch: Path, size: Size, rng: np.random.Generator) -> list[Row]:
    """Interrupts, and full disks where it writes."""
    rows = interrupt_often(command, size.commands, scratch / "interrupted", rng)
    if command.writes:
        rows += fill_disk_often(command, size.commands, scratch / "full", rng)
    return rows


async def _phase(
    server: Served,
    name: str,
    disturb: Disturb,
    bodies: Mapping[str, Mapping[str, Any]],
    expected: Mapping[str, str],
    before: Mapping[int, tuple[int, int]],
) -> list[Row]:
    done = asyncio.Event()
    staying = asyncio.create_task(ask_while(server.url, bodies, done))
    start = time.monotonic()
    try:
        figures, problems = await disturb()
    finally:
        done.set()
    answers = await staying
    took = time.monotonic() - start
    disturbed = Row(server.mode, name, "nobody hangs", not problems, _some(problems) or f"{figures}, {took:.0f} s")
    return [
        disturbed,
        _answered(server.mode, name, answers, expected, list(bodies)),
        await _at_rest_row(server, name),
        await asyncio.to_thread(_leaks, server, name, before),
    ]


def _answered(mode: Mode, phase: str, answers: Answers, expected: Mapping[str, str], prompts: Sequence[str]) -> Row:
    """Nothing lost, nothing crossed: the answers of those who stayed."""
    answers.compare(expected)
    problems = answers.problems + missing(answers, prompts)
    if len(set(answers.texts.values())) < len(answers.texts):
        problems.append("two prompts have the same answer, so that crossed ones would not show")
    figures = f"{answers.asked} answers of {len(prompts)} prompts, {answers.put_off} put off"
    return Row(mode, phase, "every answer is right", not problems, _some(problems) or figures)


async def _at_rest_row(server: Served, phase: str) -> Row:
    left = await _at_rest(server)
    return Row(server.mode, phase, "no request and no KV block is left", not any(left.values()), str(left))


async def _at_rest(server: Served) -> dict[str, float]:
    """What is left once there is nothing, or patience has ended."""
    await asyncio.to_thread(eventually, lambda: not any(server.unfinished().values()))
    return await asyncio.to_thread(server.unfinished)


def _counts(server: Served) -> dict[int, tuple[int, int]]:
    return {each.pid: (each.descriptors, each.threads) for each in server.processes()}


def _leaks(server: Served, phase: str, before: Mapping[int, tuple[int, int]]) -> Row:
    """Descriptors and threads go back to what they were, in the same processes."""

    def grown() -> list[tuple[str, int, int]]:
        more = []
        for each in server.processes():
            descriptors, threads = before.get(each.pid, (0, 0))
            more.append((each.role, each.descriptors - descriptors, each.threads - threads))
        return more

    same = {each.pid for each in server.processes()} == before.keys()
    few = eventually(lambda: all(max(files, threads) <= _GROWTH for _, files, threads in grown()))
    figures = ", ".join(f"{role} {files:+d} fds {threads:+d} threads" for role, files, threads in grown())
    return Row(server.mode, phase, "no descriptor, thread or process is leaked", same and few, figures)


def _stop(server: Served) -> list[Row]:
    pids = [each.pid for each in server.processes()]
    code = server.stop(signal.SIGTERM)
    shown = server.shown()
    # What was killed last may take the system a moment to end.
    eventually(lambda: not any(map(alive, pids)))
    left = [pid for pid in pids if alive(pid)]
    tidy = code == 0 and "Traceback" not in shown and not left
    return [
        Row(server.mode, "SIGTERM", "exit code 0, no traceback, no process", tidy, f"code {code}, {len(left)} left")
    ]


def _some(problems: Sequence[str]) -> str:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
