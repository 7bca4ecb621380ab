"""A disk that is full: the system names no file then, and a command writes to several places."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# No space, no quota, and a file larger than this process may make.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def naming_a_full_disk(directory: Path) -> Iterator[None]:
    """An OSError of the block that there is no room has `directory` as its file, unless it has one already."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(directory)
        raise
