"""A process and everything that it started, as /proc shows them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """`role`: tritonserver, engine (the process of the model tensorrt_llm), stub (of another model), or serve."""

    pid: int
    role: str
    descriptors: int
    threads: int


def tree(root: int) -> list[Process]:
    """The process and its descendants that live, the root first."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    pids = [root]
    for pid in pids:
        pids += children.get(pid, [])
    return [found for pid in pids if (found := _describe(pid, root)) is not None]


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and is not yet waited for does not."""
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _describe(pid: int, root: int) -> Process | None:
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        if not alive(pid):
            return None
        descriptors = len(os.listdir(_PROC / str(pid) / "fd"))
        threads = len(os.listdir(_PROC / str(pid) / "task"))
    except OSError:
        return None
    return Process(pid, _role(words, pid == root), descriptors, threads)


def _role(words: list[str], is_root: bool) -> str:
    program = Path(words[0]).name
    if is_root:
        return "serve"
    if program == "triton_python_backend_stub":
        return "engine" if any("/tensorrt_llm/" in word for word in words) else "stub"
    return program or "child"


def _parent(pid: int) -> int | None:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    """State, parent and so on: what stands behind the name, which may hold anything."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
