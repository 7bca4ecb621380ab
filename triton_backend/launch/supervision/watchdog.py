"""Watching an engine from another process: whether a step hangs, whether it has failed, whether it is idle."""

from __future__ import annotations

import time
from collections.abc import Callable

from inflight.runtime.engine.heartbeat import Heartbeat

# An engine that fails ends every request with the cause; this long for the clients to get it.
_LAST_WORDS_S = 1.0
_IDLE_S = 1.0


class Watchdog:
    """`hang_s`: a step that runs for longer is called hanging; it is named by `warn`, again whenever its age has
    doubled, and when it has ended. Nothing is done about it: a step may end after all, and a killed one never does."""

    def __init__(self, heartbeat: Heartbeat, hang_s: float, warn: Callable[[str], None]) -> None:
        self._heartbeat = heartbeat
        self._hang_s = hang_s
        self._warn = warn
        self._hanging: int | None = None
        self._next_warning_s = hang_s
        self._halted_at: float | None = None
        self._failed_at: float | None = None
        self._step_seen, self._idle_since = -1, time.monotonic()

    def reset(self) -> None:
        """Before the engine starts, for the first time or again."""
        self._heartbeat.reset()
        self._hanging, self._halted_at, self._failed_at = None, None, None
        self._next_warning_s = self._hang_s

    def look(self, halted: list[str]) -> None:
        """Say what hangs. `halted`: processes of the engine that a signal has stopped, in a step or between two."""
        now, step = time.monotonic(), self._heartbeat.running_step()
        if not halted:
            self._halted_at = None
        elif self._halted_at is None:
            self._halted_at = now
        if step is not None:
            number, age_s, what = step.number, step.age_s, f": {step}"
        elif self._halted_at is not None:
            number, age_s = self._heartbeat.last_step(), now - self._halted_at
            what = f": nothing has come after step {number} for {age_s:.3g} seconds"
        else:
            number, age_s, what = None, 0.0, ""
        if self._hanging is not None and number != self._hanging:
            self._warn(f"Step {self._hanging} of the engine has ended; the engine goes on.")
            self._hanging, self._next_warning_s = None, self._hang_s
        if number is not None and age_s >= self._next_warning_s:
            why = f"; stopped by a signal: {', '.join(halted)} (kill -CONT lets it go on)" if halted else ""
            self._warn(f"The engine hangs{what}{why}.")
            self._hanging, self._next_warning_s = number, 2 * age_s

    def failure(self) -> str | None:
        """Why the engine has stopped, when its clients have heard of it."""
        cause = self._heartbeat.failure()
        if cause is None:
            return None
        if self._failed_at is None:
            self._failed_at = time.monotonic()
        return cause if time.monotonic() - self._failed_at >= _LAST_WORDS_S else None

    def idle(self) -> bool:
        """Whether there has been no step for a while, as far as one knows who asks again and again."""
        step = self._heartbeat.last_step()
        if step != self._step_seen or self._heartbeat.running_step() is not None:
            self._step_seen, self._idle_since = step, time.monotonic()
        return time.monotonic() - self._idle_since >= _IDLE_S
