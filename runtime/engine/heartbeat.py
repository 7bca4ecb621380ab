"""What the engine is doing now, in memory that another process can read: also while the engine's own process hangs. The
other process may ask it there to close."""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "INFLIGHT_HEARTBEAT"

# The number of the last step, its sequences, its tokens, and when it began (CLOCK_MONOTONIC, ns; 0: it has ended).
_STEP = struct.Struct("<QQQQ")
_BEGAN, _BEGAN_AT = struct.Struct("<Q"), 24
# The length of the cause of a failure in UTF-8 bytes (0: none), and the cause.
_LENGTH = struct.Struct("<Q")
_CAUSE_AT = _STEP.size + _LENGTH.size
_BYTES = 1024
# Not 0 once the engine shall close.
_CLOSE_AT = _BYTES - 1


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step that has not ended; `age_s` is how long it has run."""

    number: int
    sequences: int
    tokens: int
    age_s: float

    def __str__(self) -> str:
        size = f"{self.sequences} sequences, {self.tokens} tokens"
        return f"step {self.number} ({size}) has run for {self.age_s:.3g} seconds"


class Heartbeat:
    """Written by the engine's thread, at the begin and the end of a step; read by whoever watches it, who writes alone
    that the engine shall close.

    `path`: a file that is shared with the watcher, made when it is missing; None: memory of this process alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._memory = mmap.mmap(-1, _BYTES)
            return
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            file.truncate(_BYTES)
            self._memory = mmap.mmap(file.fileno(), _BYTES)

    @classmethod
    def of_environment(cls, name: str = "engine") -> Heartbeat:
        """The one that the process which started this one watches, if it does; of several engines in a folder that of
        this name."""
        path = os.environ.get(VARIABLE)
        if path and Path(path).is_dir():
            path = str(Path(path) / name)
        return cls(Path(path) if path else None)

    def reset(self) -> None:
        """Before an engine starts: no step runs, nothing has failed."""
        self._memory[:] = bytes(_BYTES)

    def begin(self, number: int, sequences: int, tokens: int) -> None:
        _STEP.pack_into(self._memory, 0, number, sequences, tokens, time.monotonic_ns())

    def end(self) -> None:
        _BEGAN.pack_into(self._memory, _BEGAN_AT, 0)

    def fail(self, cause: str) -> None:
        """The engine has stopped: no step runs any more."""
        self.end()
        encoded = cause.encode(errors="replace")[: _CLOSE_AT - _CAUSE_AT]
        self._memory[_CAUSE_AT : _CAUSE_AT + len(encoded)] = encoded
        _LENGTH.pack_into(self._memory, _STEP.size, max(1, len(encoded)))

    def ask_to_close(self) -> None:
        """By the watcher: the engine shall close, and keep what is to outlive it."""
        self._memory[_CLOSE_AT] = 1

    def is_asked_to_close(self) -> bool:
        """For the engine's process to see."""
        return self._memory[_CLOSE_AT] != 0

    def last_step(self) -> int:
        """The number of the step that runs or ran last."""
        return int(_STEP.unpack_from(self._memory, 0)[0])

    def running_step(self) -> RunningStep | None:
        """The step that runs now."""
        number, sequences, tokens, began = _STEP.unpack_from(self._memory, 0)
        if not began:
            return None
        return RunningStep(number, sequences, tokens, (time.monotonic_ns() - began) / 1e9)

    def failure(self) -> str | None:
        """Why the engine has stopped; None while it has not."""
        (length,) = _LENGTH.unpack_from(self._memory, _STEP.size)
        if not length:
            return None
        return self._memory[_CAUSE_AT : _CAUSE_AT + length].decode(errors="replace").strip("\0")
