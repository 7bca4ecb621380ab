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
    """`role`: serve, api (the process of the OpenAI API), tritonserver, engine (the process of the model tensorrt_llm),
    the name of the model that it runs, or the program's."""

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


def of_environment(name: str, value: str) -> list[int]:
    """Processes that live and have this variable, which children inherit: also those whose parents have ended."""
    found = []
    for entry in _PROC.iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{name}={value}\0".encode() in (entry / "environ").read_bytes():
                found += [int(entry.name)] if alive(int(entry.name)) else []
    return found


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
        model = Path(words[1]).parents[1].name  # its file is MODEL/1/model.py
        return "engine" if model == "tensorrt_llm" else model
    return "api" if any(word.endswith("OpenAI API") for word in words) else program or "child"


def _parent(pid: int) -> int | None:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    """State, parent and so on: what stands behind the name, which may hold anything."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
