"""A tritonserver whose models come and go."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from typing import Any

from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.launch.supervision.processes import process_state

_LOOK_EVERY_S = 0.5
# How long a process that leaves may lie dead before the server, which waits for it, has taken notice.
_REAPED_WITHIN_S = 2.0


class ExplicitTritonServer(TritonServer):
    """It loads what lies in its repository, and later what its repository API is told (explicit model control).

    The processes of a model that is unloaded end, and so do those in whose place others have come when a loaded model
    is loaded again. Neither is a death: the first model is not ready any more, and the second has as many processes as
    it has instances all the time. The dead are told from them by two signs. Their model, which Triton 2.51 still calls
    ready, has fewer processes than instances; or nobody waits for them, as the server does for those that it ends
    (python_backend, `StubLauncher::TerminateStub`).
    """

    _watches, _next_look = False, 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        flags = ("--model-control-mode=explicit", "--load-model=*")
        super().__init__(*arguments, more_flags=flags, **options)
        self._ended_at: dict[int, float] = {}

    def start(self) -> None:
        self._watches = False
        super().start()

    def watch_models(self) -> None:
        super().watch_models()
        self._watches, self._ended_at = True, {}

    def death(self) -> str | None:
        if not (self._watches and self.is_running()):
            return super().death()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            self._models |= self._processes_of_models()
        ended = {pid: name for pid, name in self._models.items() if self._has_ended(pid)}
        if not ended:
            return None
        lacking = self._models_that_lack_processes(set(ended.values()))
        self._ended_at = {pid: self._ended_at.get(pid, now) for pid in ended}
        unreaped = {pid for pid in ended if (state := process_state(pid)) is not None and state.is_dead}
        overdue = {pid for pid in unreaped if now - self._ended_at[pid] >= _REAPED_WITHIN_S}
        why = self._death_among({pid: name for pid, name in ended.items() if name in lacking or pid in overdue})
        if why is None:
            self._models = {pid: name for pid, name in self._models.items() if pid not in ended or pid in unreaped}
        return why

    def _models_that_lack_processes(self, names: set[str]) -> set[str]:
        """Those of `names` that the server calls ready, or of which it does not say, with fewer processes than
        instances."""
        ready = self._ready_models()
        instances = {name: self._instances(name) for name in names if ready is None or name in ready}
        # Looked at last: what has become ready meanwhile has its processes now.
        running = Counter(self._processes_of_models().values())
        lacking = {name for name, count in instances.items() if running[name] < count}
        # One that has been unloaded since it was asked for lacks its processes rightly.
        ready = self._ready_models() if lacking else None
        return lacking if ready is None else lacking & ready

    def _ready_models(self) -> set[str] | None:
        index = self._ask("/v2/repository/index", b"{}")
        return None if index is None else {each["name"] for each in index if each.get("state") == "READY"}

    def _instances(self, model: str) -> int:
        config = self._ask(f"/v2/models/{model}/config")
        return 1 if config is None else sum(group.get("count", 1) for group in config.get("instance_group", [{}]))

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        """The answer of the server; None when there is none."""
        try:
            with urllib.request.urlopen(f"{self.address.http_url}{path}", body, timeout=2) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError):
            return None
