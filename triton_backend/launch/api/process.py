"""The process of the OpenAI-compatible API, as the one that starts it sees it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from inflight.triton_backend.launch.supervision.processes import dies_with_parent, how_it_ended, process_state

# `-c` puts the current folder before all others on Python's path, and a module there must not stand for one of ours.
_MAIN = "import sys; sys.path.pop(0); from inflight.triton_backend.launch.api.server import main; main()"


class ApiProcess:
    """A Python process of its own session, told on its standard input what to serve. It does not outlive the thread
    that starts it. `orders`: the fields of ApiOrders (server.py); `host` and `port`: where it will listen."""

    def __init__(self, orders: Mapping[str, Any], environment: Mapping[str, str], host: str, port: int) -> None:
        self._orders = json.dumps(orders).encode()
        self._environment = dict(environment)
        self._address = (host, port)
        self._process: subprocess.Popen[bytes] | None = None
        self.last_exit_code: int | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, "inflight serve: OpenAI API"],
            env=self._environment,
            stdin=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=dies_with_parent(),
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(self._orders)
            self._process.stdin.close()
        except BrokenPipeError:  # It has ended already, which `death` tells.
            pass

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        with closing(socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)) as probe:
            probe.settimeout(1)
            return probe.connect_ex(self._address) == 0

    def death(self) -> str | None:
        """How it ended, when it has."""
        if self._process is None:
            return "the process of the API is not running"
        code = self._process.poll()
        return None if code is None else f"the process of the API, pid {self._process.pid}, {how_it_ended(code)}"

    def was_killed(self) -> bool:
        """Whether a signal ended it."""
        return self._process is not None and (self._process.poll() or 0) < 0

    def stopped_processes(self) -> list[str]:
        """Itself, when a signal (SIGSTOP) has halted it."""
        state = None if self._process is None else process_state(self._process.pid)
        return [f"API, pid {self._process.pid}"] if self._process and state is not None and state.state == "T" else []

    def ask_to_stop(self) -> None:
        """Begin to drain: no new requests; it ends when the running ones have, or its time is over."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def has_stopped(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End it at once. Harmless when repeated."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            self.last_exit_code = process.wait()
