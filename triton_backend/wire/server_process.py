"""A model's process does not outlive its server."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

# Of proc(5)'s fields of the model's process the fourth is its parent, which is another once the server has gone. The
# shell ends by itself when the process has.
_WATCH = """
while read -r pid name state parent rest < "/proc/$1/stat" && [ "$parent" = "$0" ]; do sleep 1; done
[ -n "$parent" ] && [ "$parent" != "$0" ] && kill -s KILL "$1"
"""


def end_with_server() -> None:
    """From now on this process ends within seconds of its server, however that ends, and whether or not anybody waits
    for the dead server, which Triton's stub asks for.

    A shell sees to it, because no thread of this process could: a call of Triton's stub that waits for an answer of the
    server, a metric's or a response's, keeps Python's lock, and waits for ever when the server has gone.
    """
    with suppress(OSError):  # a system without a shell
        subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, str(os.getppid()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
