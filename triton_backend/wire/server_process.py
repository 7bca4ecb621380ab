"""A model's process does not outlive its server."""

from __future__ import annotations

import os
import threading
import time

_PERIOD_S = 0.5


def end_with_server() -> None:
    """From now on this process ends when the server has. Where it hangs so that not even this thread runs, the guard of
    `inflight serve` ends it (SessionGuard).

    Triton's stub notices that its server is gone, but then waits for the threads of the model, which may wait for the
    server to take a response.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), name="server-watch", daemon=True).start()


def _watch(server: int) -> None:
    while os.getppid() == server:
        time.sleep(_PERIOD_S)
    os._exit(1)
