"""How long tests wait: until something has happened, never for a time. The limit only ends a hang."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 300.0


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether `holds` comes true before the tests' patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
