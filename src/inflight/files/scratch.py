"""Temporary directories beside what they will become; those of processes that were killed are found and removed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# In the name of every one, so that nothing else is taken for one.
_MARK = "inflight-"
_OLD = "old"


@contextmanager
def scratch_directory(parent: Path, name: str) -> Iterator[Path]:
    """A new directory in `parent`, removed at the end unless it has been moved.

    It is locked while it is used, and the system unlocks it when the process ends, however that ends.
    """
    path, lock = _make(parent, _prefix(name))
    try:
        yield path
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(path, ignore_errors=True)


def replace_directory(new: Path, target: Path) -> None:
    """Put `new` in the place of the directory `target`. Killed in between, remove_stale puts the old one back."""
    with scratch_directory(target.parent, target.name) as retired:
        os.rename(target, retired / _OLD)
        try:
            os.rename(new, target)
        except BaseException:
            os.rename(retired / _OLD, target)
            raise


def remove_stale(parent: Path, name: str) -> None:
    """Remove what killed processes left of scratch directories of `name` in `parent`. What cannot be locked is in use,
    or on a file system that knows no locks, and stays."""
    for path in parent.glob(f"{glob.escape(_prefix(name))}*"):
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (path / _OLD).is_dir() and not (parent / name).exists():
                    os.rename(path / _OLD, parent / name)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _prefix(name: str) -> str:
    # A name of 255 bytes is allowed, and the temporary one is longer.
    return f".{name[:40]}.{_MARK}"


def _make(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """A new directory and its lock; None where the file system knows none."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another process took it for a stale one before it was locked
            continue
        os.fchmod(lock, 0o755)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            os.close(lock)
            return path, None
        if path.exists():
            return path, lock
        os.close(lock)
