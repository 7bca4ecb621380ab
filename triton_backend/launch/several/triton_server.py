"""A tritonserver whose models come and go."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

from inflight.triton_backend.launch.server import TritonServer

_LOOK_EVERY_S = 0.5


class ExplicitTritonServer(TritonServer):
    """It loads what lies in its repository, and later what its repository API is told (explicit model control).

    A process of a model that has ended is that of a dead one while the server calls the model ready, which Triton 2.51
    does of the dead; else the model has been unloaded.
    """

    _watches, _next_look = False, 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        flags = ("--model-control-mode=explicit", "--load-model=*")
        super().__init__(*arguments, more_flags=flags, **options)

    def start(self) -> None:
        self._watches = False
        super().start()

    def watch_models(self) -> None:
        super().watch_models()
        self._watches = True

    def death(self) -> str | None:
        is_due = time.monotonic() >= self._next_look or any(map(self._has_ended, self._models))
        if self._watches and self.is_running() and is_due:
            self._next_look = time.monotonic() + _LOOK_EVERY_S
            self._look_for_models()
        return super().death()

    def _look_for_models(self) -> None:
        before = self._models
        super().watch_models()
        changed = set(before) ^ set(self._models) or any(map(self._has_ended, before))
        ready = self._ready_models() if changed else set()
        # A process that is new counts when its model is ready, one that has ended while it is.
        now = {**before, **self._models}
        steady = {pid for pid in before if not self._has_ended(pid)}
        self._models = {pid: name for pid, name in now.items() if pid in steady or name in ready}

    def _ready_models(self) -> set[str]:
        """None of them where the server does not answer: then it has to be found dead itself."""
        index = urllib.request.Request(f"{self.address.http_url}/v2/repository/index", b"{}", method="POST")
        try:
            with urllib.request.urlopen(index, timeout=2) as answer:
                return {each["name"] for each in json.loads(answer.read()) if each.get("state") == "READY"}
        except (OSError, ValueError):
            return set()
