"""A directory that one process at a time has."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from inflight.errors import EngineError

# A server that is started again may find the process before it still ending.
_WAIT_S = 3.0
_POLL_S = 0.05


class OwnedDirectory:
    """A directory, made where there is none, and the files that are open in it, until close().

    Raises EngineError when another process has it, or it cannot be made or written; OSError for other reasons.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[int] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = self.open("lock")
        except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise EngineError(
                f"No KV cache blocks can be kept in {path}: {error.strerror}.",
                "Give --kv-offload-dir a directory that may be written.",
            ) from error
        try:
            _lock(lock, path)
        except BaseException:
            self.close()
            raise

    def open(self, name: str) -> int:
        """The descriptor of a file in it, which is made where there is none. Raises OSError."""
        file = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._files.append(file)
        return file

    def close(self) -> None:
        """Calling it twice is harmless."""
        while self._files:
            with suppress(OSError):  # of what was written before; checksums tell
                os.close(self._files.pop())


def is_held(path: Path) -> bool:
    """Whether a process has the directory now."""
    try:
        file = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _lock(file: int, path: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"Another process keeps its KV cache blocks in {path}.",
                    "Give each server a --kv-offload-dir of its own.",
                ) from None
        time.sleep(_POLL_S)
