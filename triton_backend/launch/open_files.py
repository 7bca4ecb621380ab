"""How many connections a server may hold: each is an open file."""

from __future__ import annotations

import resource
from contextlib import suppress


def allow_open_files() -> None:
    """Raise this process's limit of open files to the most that it may set; its children inherit that.

    The usual limit, 1024, is meant for programs that use select(); with it the 1000th client would get no connection.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # Some systems allow less than they say.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
