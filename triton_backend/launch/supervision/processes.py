"""What Linux says of other processes, and children that never outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ProcessState:
    """`state` is the letter of proc(5): T for stopped, Z for dead and not waited for. `status` is what waitpid(2) gives
    for a dead process, 0 where it is not permitted to see it."""

    name: str
    state: str
    parent: int
    status: int

    @property
    def is_dead(self) -> bool:
        """It has ended, and its parent has not waited for it yet."""
        return self.state in "ZX"


def process_state(pid: int) -> ProcessState | None:
    """None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, fields = stat.partition("(")[2].rpartition(")")[0], stat.rpartition(")")[2].split()
    return ProcessState(name, fields[0], int(fields[1]), int(fields[49]))


def children(parent: int) -> dict[int, str]:
    """The processes whose parent that is, and their command lines, words separated by NUL."""
    found = {}
    for pid in all_processes():
        state = process_state(pid)
        if state is not None and state.parent == parent:
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return found


class SessionGuard:
    """Kills the processes of a session when this process has ended, however it did: what one of them that hangs can
    not do. A shell that waits for its standard input to be closed, which the system does.

    `leader`: the process that began the session.
    """

    def __init__(self, leader: int) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$0"', str(leader)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """The session has ended, and its number may become another's."""
        self._shell.kill()
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()


def how_it_ended(code: int) -> str:
    """In words; `code` as subprocess has it: -N for signal N."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (by somebody, or for lack of memory)" if name == "SIGKILL" else "")


def end_of(state: ProcessState | None) -> str:
    """How a process ended, in words, as far as that is still known."""
    if state is None or not state.is_dead:
        return "is gone"
    return how_it_ended(os.waitstatus_to_exitcode(state.status))


def dies_with_parent() -> Callable[[], None]:
    """A `preexec_fn` for a child that must not outlive this process: it is killed when the thread that starts it ends,
    however that happens."""
    parent = os.getpid()

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # which has ended in the meantime
            os._exit(1)

    return ask


def all_processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
