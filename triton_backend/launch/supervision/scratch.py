"""The folder of a running server, and removing what servers that were killed have left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _LOCK = "inflight-serve-", "lock"
_SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def serving_folder() -> Iterator[Path]:
    """A temporary folder. Whoever uses it holds its lock, which ends with the process, however that ends."""
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        unlocked = folder / f"{_LOCK}.new"
        with unlocked.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(folder / _LOCK)  # so that nobody finds it without the lock
            yield folder


def remove_shared_memory(name: str) -> None:
    """Remove the shared memory whose name begins so: Triton leaves it behind when it is killed."""
    for left in _SHARED_MEMORY.glob(f"{name}*"):
        with suppress(OSError):
            left.unlink()


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), path.open("w") as lock:  # not ours, or used
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_uid == os.getuid():
                remove_shared_memory(f"{path.parent.name}_")
                shutil.rmtree(path.parent, ignore_errors=True)
