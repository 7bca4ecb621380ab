"""What Linux says of the TCP connections of a server's ports."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inflight.triton_backend.launch.supervision.processes import all_processes, process_state

_TABLES = ("tcp", "tcp6")
_ESTABLISHED, _LISTENING = "01", "0A"


@dataclass(frozen=True, slots=True)
class _Socket:
    """This end of a connection; `state` as Linux numbers them."""

    port: int
    state: str
    inode: str


def listener(port: int) -> str | None:
    """The name and pid of the process that listens on a TCP port; None where it is not permitted to see it."""
    listening: set[str] = set()
    with suppress(OSError):
        listening |= {f"socket:[{each.inode}]" for each in _sockets() if (each.port, each.state) == (port, _LISTENING)}
    for pid in all_processes() if listening else ():
        state = process_state(pid)
        if state is not None and listening & set(_opened(pid)):
            return f"{state.name}, pid {pid}"
    return None


def has_clients(ports: Collection[int]) -> bool:
    """Whether a client of one of the ports has not closed its end, as far as one can see. A server may hold on to
    connections whose clients have gone."""
    try:
        return any(each.port in ports and each.state == _ESTABLISHED for each in _sockets())
    except OSError:
        return True


def _sockets() -> Iterator[_Socket]:
    """Raises OSError where the system shows none."""
    Path("/proc/net/tcp").stat()
    for table in _TABLES:
        with suppress(FileNotFoundError):  # a system without IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                yield _Socket(int(fields[1].rpartition(":")[2], 16), fields[3], fields[9])


def _opened(pid: int) -> Iterator[str]:
    """What a process has open; nothing where it is another user's."""
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed in the meantime
                yield os.readlink(f"/proc/{pid}/fd/{number}")
