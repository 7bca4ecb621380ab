"""Temporary directories; those of processes that were killed are found and removed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# In the name of every one, so that nothing else is taken for one.
_MARK = "inflight-"
_OLD = "old"
# What a directory is moved to is read by others, too; what lies in the system's temporary directory is not.
_SHARED, _PRIVATE = 0o755, 0o700


@contextmanager
def temporary_directory(name: str) -> Iterator[Path]:
    """A new directory in the system's temporary directory, for this user alone, removed at the end.

    What killed processes of this user left of directories of `name` there is removed first.
    """
    parent = Path(tempfile.gettempdir())
    remove_stale(parent, name)
    with scratch_directory(parent, name, mode=_PRIVATE) as path:
        yield path


@contextmanager
def scratch_directory(parent: Path, name: str, *, mode: int = _SHARED) -> Iterator[Path]:
    """A new directory in `parent`, removed at the end unless it has been moved.

    It is locked while it is used, and the system unlocks it when the process ends, however that ends.
    """
    path, lock = _make(parent, _prefix(name), mode)
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
    or on a file system that knows no locks, and stays; so does what is another user's in a directory for all (tmp)."""
    for_all = parent.is_dir() and parent.stat().st_mode & stat.S_ISVTX
    for path in parent.glob(f"{glob.escape(_prefix(name))}*"):
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if for_all and os.fstat(lock).st_uid != os.geteuid():
                    continue
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (path / _OLD).is_dir() and not (parent / name).exists():
                    os.rename(path / _OLD, parent / name)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _prefix(name: str) -> str:
    # A name of 255 bytes is allowed, and the temporary one is longer.
    return f".{name[:40]}.{_MARK}"


def _make(parent: Path, prefix: str, mode: int) -> tuple[Path, int | None]:
    """A new directory and its lock; None where the file system knows none."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another process took it for a stale one before it was locked
            continue
        os.fchmod(lock, mode)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            os.close(lock)
            return path, None
        if path.exists():
            return path, lock
        os.close(lock)
