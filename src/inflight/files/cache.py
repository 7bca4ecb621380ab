"""The user's cache directory, for files that can be made again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from inflight.errors import InflightError
from inflight.files.full_disk import naming_a_full_disk
from inflight.files.scratch import remove_stale, scratch_directory

_RECORD = "record"


def user_cache_dir() -> Path:
    """INFLIGHT_CACHE, or `inflight` in the user's cache directory (XDG_CACHE_HOME, else ~/.cache). Not created here."""
    if chosen := os.environ.get("INFLIGHT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inflight"


def writable_cache_dir() -> Path:
    """The user's cache directory, made if need be; where there is no home to write to (a container, a service), a
    private one under the system's tmp. Raises InflightError when that belongs to another user.
    """
    with contextlib.suppress(OSError, RuntimeError):
        chosen = user_cache_dir()
        chosen.mkdir(parents=True, exist_ok=True)
        if os.access(chosen, os.W_OK | os.X_OK):
            return chosen
    path = Path(tempfile.gettempdir()) / f"inflight-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    # Code is loaded from the cache, and anybody may make directories and links in tmp.
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise InflightError(f"{path} belongs to another user.", "Set INFLIGHT_CACHE to a directory of your own.")
    return path


def cached_path(*parts: str) -> Path:
    """Where something is kept: in the user's cache when it is there, writable or not; else where it can be written."""
    with contextlib.suppress(OSError, RuntimeError):
        path = user_cache_dir().joinpath(*parts)
        if path.exists():
            return path
    return writable_cache_dir().joinpath(*parts)


def write_record(path: Path, text: str) -> None:
    """Write a file of the cache whole or not at all, so that no process ever reads a part of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, _RECORD)
    with naming_a_full_disk(path.parent), scratch_directory(path.parent, _RECORD) as scratch:
        whole = scratch / path.name
        whole.write_text(text, encoding="utf-8")
        os.replace(whole, path)
