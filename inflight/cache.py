"""Where things that can be made again are kept for the user."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache_dir() -> Path:
    """INFLIGHT_CACHE, or `inflight` in the user's cache directory (XDG_CACHE_HOME, else ~/.cache). Not created here."""
    if chosen := os.environ.get("INFLIGHT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inflight"
