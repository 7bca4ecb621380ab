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
    does of the dead; else the model has been unloaded. One in whose place another has come was unloaded, too: its model
    was loaded again between two looks.
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
        if self._watches and self.is_running() and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_EVERY_S
            self._look_for_models()
        # Several processes of a model that is unloaded end one after the other, each perhaps between two looks.
        while (why := super().death()) is not None and self._watches and self.is_running():
            before = set(self._models)
            self._look_for_models()
            if set(self._models) == before:
                break
        return why

    def _look_for_models(self) -> None:
        """Where the server does not answer, nothing changes: then it has to be found dead itself."""
        before = self._models
        super().watch_models()
        now = {**before, **self._models}
        ended = {pid for pid in before if self._has_ended(pid)}
        if set(now) == set(before) and not ended:
            return
        self._models, ready = before, self._ready_models()
        if ready is None:
            return
        # A process that is new counts when its model is ready, one that has ended while it is and none is new.
        steady, replaced = set(before) - ended, {name for pid, name in now.items() if pid not in before}
        self._models = {
            pid: name
            for pid, name in now.items()
            if pid in steady or (name in ready and not (pid in ended and name in replaced))
        }

    def _ready_models(self) -> set[str] | None:
        index = urllib.request.Request(f"{self.address.http_url}/v2/repository/index", b"{}", method="POST")
        try:
            with urllib.request.urlopen(index, timeout=2) as answer:
                return {each["name"] for each in json.loads(answer.read()) if each.get("state") == "READY"}
        except (OSError, ValueError):
            return None
