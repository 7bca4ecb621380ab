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
    does of the dead; else the model has been unloaded. Those beside which others of their model come leave, too: the
    model is loaded again, and ready all the while.
    """

    _watches, _next_look = False, 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        flags = ("--model-control-mode=explicit", "--load-model=*")
        super().__init__(*arguments, more_flags=flags, **options)
        self._leaving: set[int] = set()

    def start(self) -> None:
        self._watches, self._leaving = False, set()
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
        for name in {name for pid, name in now.items() if pid not in before}:
            others = {pid for pid, model in before.items() if model == name}
            # Several processes of a model come one after the other, before those in whose place they are have gone.
            if not others & self._leaving:
                self._leaving |= others
        # One that is new counts when its model is ready, one that has ended while that is and it was not leaving.
        self._models = {
            pid: name
            for pid, name in now.items()
            if (pid in before and pid not in ended) or (name in ready and not (pid in ended and pid in self._leaving))
        }
        self._leaving &= set(self._models)

    def _ready_models(self) -> set[str] | None:
        index = urllib.request.Request(f"{self.address.http_url}/v2/repository/index", b"{}", method="POST")
        try:
            with urllib.request.urlopen(index, timeout=2) as answer:
                return {each["name"] for each in json.loads(answer.read()) if each.get("state") == "READY"}
        except (OSError, ValueError):
            return None
