"""Signals that end a server, noted for whoever waits."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_TICK_S = 0.1


class Stop(Exception):
    """Somebody asked the server to stop."""


class StopSignals:
    """SIGINT, SIGTERM and, unless it is ignored as under nohup, SIGHUP. They are only noted: whoever waits asks."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def pause(self, seconds: float = _TICK_S) -> None:
        """Wait. Raises Stop as soon as a signal has come."""
        deadline = time.monotonic() + seconds
        while not self.received and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_S))
        if self.received:
            raise Stop

    @contextmanager
    def installed(self) -> Iterator[StopSignals]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
