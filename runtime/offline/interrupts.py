"""Delivers Ctrl-C and termination signals between steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def deferred_interrupt() -> Iterator[Sequence[int]]:
    """Hold back signals that raise until the block is left, so that none leaves the scheduler half-way through a step.

    Yields those that were held back so far: who has many steps to do leaves when there is one. Entering for each step
    would cost more than scheduling it, since the way to the kernel is never in the caches then.
    A second one interrupts at once. Where Python delivers none (outside the main thread) and for signals that have no
    handler in Python, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield ()
        return
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if len(noted) > 1:
            handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if noted:
        signal.raise_signal(noted[0])
