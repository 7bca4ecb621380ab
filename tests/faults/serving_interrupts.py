"""Ctrl-C on a server at any moment of its start and of its service."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from tests.faults.report import Row
from tests.faults.served import Mode, Served, served, starting
from tests.patience import PATIENCE_S, eventually

# 0: it had begun to watch for signals. Before that it is a command like any other: 130 in a shell.
_CODES = (0, 128 + signal.SIGINT, -signal.SIGINT)


def interrupt_serving(mode: Mode, engine: Path, scratch: Path, times: int, rng: np.random.Generator) -> list[Row]:
    """The documented exit code, no traceback, and no process that is left."""
    start = time.monotonic()
    with served(mode, engine, scratch):
        whole = time.monotonic() - start
    faults, codes = [], set()
    for _ in range(times):
        after = float(rng.uniform(0, 1.2 * whole))
        with starting(mode, engine, scratch) as server:
            time.sleep(after)
            code, found = _interrupted(server)
            codes.add(code)
            faults += [f"{fault} (after {after:.2f} s of {whole:.2f} to readiness)" for fault in found]
    return [
        Row(
            mode,
            "SIGINT of serve",
            "exit code 0 or 130, no traceback, no process",
            not faults,
            "; ".join(faults) or f"{times} times, codes {sorted(codes, key=str)}",
        )
    ]


def _interrupted(server: Served) -> tuple[int | None, list[str]]:
    try:
        os.killpg(server.process.pid, signal.SIGINT)  # As a terminal does.
        code: int | None = server.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        return None, ["it hangs"]
    shown = server.shown()
    faults = [] if code in _CODES else [f"exit code {code}: {shown[-300:]!r}"]
    if "Traceback" in shown:
        faults.append(f"a traceback: {shown[-500:]!r}")
    if not eventually(lambda: not server.left()):
        faults.append(f"{len(server.left())} processes are left")
    return code, faults
