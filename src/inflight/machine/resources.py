"""How many cores and how much memory this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that the process is allowed to run on, or its cgroup's CPU quota when that is smaller; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _own_cgroups() if (quota := _cpu_quota(group)) is not None]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def available_memory() -> int:
    """Bytes that can be taken without swapping: free and reclaimable memory, or what the cgroup's limit leaves."""
    rooms = [room for group in _own_cgroups() if (room := _memory_room(group)) is not None]
    return max(0, min([_system_memory(), *rooms]))


def _own_cgroups() -> Iterator[Path]:
    """The process's cgroup (version 2) and its ancestors: a limit on any of them holds."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        hierarchy, _, path = line.split(":", 2)
        if hierarchy == "0":
            group = _CGROUPS / path.lstrip("/")
            yield group
            yield from (parent for parent in group.parents if parent.is_relative_to(_CGROUPS))


def _cpu_quota(group: Path) -> float | None:
    words = _words(group / "cpu.max")
    return None if len(words) < 2 or words[0] == "max" else int(words[0]) / int(words[1])


def _memory_room(group: Path) -> int | None:
    """Limit less use. Cached file pages count as free: the kernel drops them before it refuses memory."""
    limit, used = _words(group / "memory.max"), _words(group / "memory.current")
    if not limit or not used or limit[0] == "max":
        return None
    statistics = _words(group / "memory.stat")
    cached = sum(
        int(value)
        for name, value in zip(statistics[::2], statistics[1::2], strict=False)
        if name in ("inactive_file", "active_file")
    )
    return int(limit[0]) - int(used[0]) + cached


def _system_memory() -> int:
    fields = _words(Path("/proc/meminfo"))
    if "MemAvailable:" in fields:
        return int(fields[fields.index("MemAvailable:") + 1]) * 1024
    # Elsewhere (macOS) free memory says little, for the system keeps it full of caches: half of all there is.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
