"""Processor time of a process and all that it has started, by what they are. Linux."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_STUB = "triton_python_backend_stub"
ENGINE, SHIM = "engine's process", "shim"


def cpu_seconds(root: int, root_role: str) -> dict[str, float]:
    """User and system seconds so far of `root` and its descendants that live, by role: ENGINE for the process that
    computes, else the program."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for pid in tree(root):
        fields = _stat(pid)
        if fields is not None:
            seconds[root_role if pid == root else _role(pid)] += (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return dict(seconds)


def spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Seconds between two calls of cpu_seconds."""
    return {role: seconds - before.get(role, 0.0) for role, seconds in after.items()}


def tree(root: int) -> list[int]:
    """`root` and every process below it."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _all_pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (field 3 of proc(5)); None when the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _role(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "ended"
    program = Path(words[0]).name
    if program == _STUB:
        # A stub is given the path MODEL/VERSION/model.py.
        model = Path(words[1]).parent.parent.name
        return ENGINE if model == "tensorrt_llm" else "other stubs"
    return program
