"""Keeps the processes of a server alive: waits for them, says what has died, starts it again, stops them in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from inflight.errors import InflightError
from inflight.triton_backend.launch.supervision.stop_signals import StopSignals
from inflight.triton_backend.launch.supervision.watchdog import Watchdog

Restart = Literal["always", "never"]

_TICK_S = 0.1
# More deaths than that in so many seconds are not an accident that a restart mends.
_MOST_RESTARTS, _WINDOW_S = 5, 300.0
_FIRST_DELAY_S = 0.5
# A part that a signal ends so often before it was ever ready cannot run on this machine.
_MOST_FIRST_CRASHES = 3
# What stopping may take beyond the time for the requests that run: what then runs has to hear of its end.
_GRACE_S = 1.2


class ServerDied(InflightError):
    """A process of the server has died and is not started again."""

    exit_code = 3


class Part(Protocol):
    """A process, with those that belong to it, which can be started again after `kill`."""

    def start(self) -> None: ...

    def is_ready(self) -> bool: ...

    def death(self) -> str | None:
        """What has ended, and how; None while it can serve."""
        ...

    def was_killed(self) -> bool:
        """Whether a signal ended it: it crashed, or somebody or the system killed it."""
        ...

    def stopped_processes(self) -> list[str]: ...

    def ask_to_stop(self) -> None: ...

    def has_stopped(self) -> bool: ...

    def kill(self) -> None: ...


@dataclass(slots=True)
class Watched:
    """A part and what became of it. `has_engine`: the engine runs in it; `on_ready` is called each time it is ready;
    `start_at`: when it is started again (time.monotonic()), None while it runs."""

    name: str
    part: Part
    has_engine: bool
    on_ready: Callable[[], None]
    is_up: bool = False
    start_at: float | None = None


class Supervisor:
    """Watches the parts of a server. Used from the main thread.

    A part that cannot serve any more is killed whole: that closes its connections, so no request waits for the dead.
    """

    def __init__(self, watchdog: Watchdog, signals: StopSignals, restart: Restart, say: Callable[[str], None]) -> None:
        self._watchdog = watchdog
        self._signals = signals
        self._restart = restart
        self._say = say
        self._parts: list[Watched] = []
        self._restarts: deque[float] = deque()

    def bring_up(self, watched: Watched) -> None:
        """Start a part for the first time and return when it is ready.

        One that a signal ends before is started again, a few times and unless restarts are off: that says nothing of
        what the machine can run. Raises Stop; ServerDied when it dies otherwise, and then watches it no more.
        """
        self._parts.append(watched)
        self._start(watched)
        crashes = 0
        while not watched.is_up:
            self._signals.pause()
            if watched.start_at is not None:
                self._start_when_due(watched)
            elif why := self._death(watched):
                crashes += watched.part.was_killed()
                if self._restart == "never" or not watched.part.was_killed() or crashes > _MOST_FIRST_CRASHES:
                    self._parts.remove(watched)
                    watched.part.kill()
                    raise ServerDied(f"{_sentence(why)}, while the server was starting.")
                self._bury(watched, f"{why}, while the server was starting")
            else:
                self._look(watched)

    def watch(self) -> None:
        """Never returns: raises Stop, or ServerDied when something has died that is not started again."""
        while True:
            self._signals.pause()
            halted = [name for each in self._parts if each.has_engine for name in each.part.stopped_processes()]
            self._watchdog.look(halted)
            for watched in self._parts:
                if watched.start_at is not None:
                    self._start_when_due(watched)
                elif why := self._death(watched):
                    self._bury(watched, why)
                else:
                    self._look(watched)

    def stop(self, drain_s: float) -> None:
        """Stop the part that was started last first, with `drain_s` for the requests that run; then the others, in what
        is left of that time. Another signal ends everything at once."""
        deadline = time.monotonic() + drain_s + _GRACE_S
        for watched in reversed(self._parts):
            watched.part.ask_to_stop()
            while not watched.part.has_stopped() and time.monotonic() < deadline and len(self._signals.received) < 2:
                time.sleep(_TICK_S)
            watched.part.kill()

    def kill(self) -> None:
        """End what is left. Harmless when repeated."""
        for watched in reversed(self._parts):
            watched.part.kill()

    def _start(self, watched: Watched) -> None:
        watched.is_up, watched.start_at = False, None
        if watched.has_engine:
            self._watchdog.reset()
        watched.part.start()

    def _start_when_due(self, watched: Watched) -> None:
        if watched.start_at is not None and time.monotonic() >= watched.start_at:
            self._start(watched)

    def _look(self, watched: Watched) -> None:
        if not watched.is_up and watched.part.is_ready():
            watched.is_up = True
            watched.on_ready()

    def _death(self, watched: Watched) -> str | None:
        if why := watched.part.death():
            return why
        failure = self._watchdog.failure() if watched.has_engine else None
        return None if failure is None else f"the engine has failed: {failure}"

    def _bury(self, watched: Watched, why: str) -> None:
        """End what is left of a part, and see to it that it is started again. Raises ServerDied when it is not."""
        watched.part.kill()
        now = time.monotonic()
        while self._restarts and now - self._restarts[0] > _WINDOW_S:
            self._restarts.popleft()
        if self._restart == "never":
            raise ServerDied(f"{_sentence(why)}.", "It is not started again: --restart never was given.")
        if len(self._restarts) == _MOST_RESTARTS:
            raise ServerDied(
                f"{_sentence(why)}.",
                f"It is not started again: that was done {_MOST_RESTARTS} times in {_WINDOW_S / 60:.0f} minutes.",
            )
        delay = _FIRST_DELAY_S * 2 ** len(self._restarts)
        self._restarts.append(now)
        watched.start_at = now + delay
        times = f"restart {len(self._restarts)} of at most {_MOST_RESTARTS} in {_WINDOW_S / 60:.0f} minutes"
        self._say(f"{_sentence(why)}. {watched.name} starts again in {delay:.3g} seconds ({times}).")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
