"""Where things that can be made again are kept for the user."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def user_cache_dir() -> Path:
    """INFLIGHT_CACHE, or `inflight` in the user's cache directory (XDG_CACHE_HOME, else ~/.cache). Not created here."""
    if chosen := os.environ.get("INFLIGHT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inflight"


def write_record(path: Path, text: str) -> None:
    """Write a file of the cache whole or not at all, so that no process ever reads a part of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise
