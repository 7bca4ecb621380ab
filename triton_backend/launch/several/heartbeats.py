"""The heartbeats of several engines, watched as one."""

from __future__ import annotations

from pathlib import Path

from inflight.runtime.engine.heartbeat import Heartbeat, RunningStep


class Heartbeats(Heartbeat):
    """Those that lie in a folder, which engines write that come and go. Read only."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._read: dict[str, Heartbeat] = {}

    def reset(self) -> None:
        for heartbeat in self._all():
            heartbeat.reset()

    def last_step(self) -> int:
        """Another number after every step of any."""
        return sum(heartbeat.last_step() for heartbeat in self._all())

    def running_step(self) -> RunningStep | None:
        """The one that has run for longest."""
        steps = [step for heartbeat in self._all() if (step := heartbeat.running_step()) is not None]
        return max(steps, key=lambda step: step.age_s, default=None)

    def failure(self) -> str | None:
        """Of the first that has failed."""
        for name, heartbeat in self._read_all().items():
            if (cause := heartbeat.failure()) is not None:
                return f"{name}: {cause}"
        return None

    def _all(self) -> list[Heartbeat]:
        return list(self._read_all().values())

    def _read_all(self) -> dict[str, Heartbeat]:
        for path in self._folder.iterdir():
            if path.name not in self._read:
                self._read[path.name] = Heartbeat(path)
        return self._read
