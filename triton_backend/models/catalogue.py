"""The models of a server: which are loaded, and loading and unloading them while it serves."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from starlette.types import ASGIApp

from inflight.triton_backend.models.memory import MemoryBudget
from inflight.triton_backend.models.names import ServedModel
from inflight.triton_backend.openai.app import create_app
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.service import Service

_TICK_S = 0.02
State = Literal["UNAVAILABLE", "LOADING", "READY", "UNLOADING"]


class Opener(Protocol):
    """How engines come and go. Both functions may take long, and are called on a thread."""

    def open(self, model: ServedModel, cache_bytes: int, is_there: bool) -> Service:
        """`is_there`: the engine was loaded before this process began, where it runs in another one. Raises
        InflightError or OSError for an engine that cannot be loaded."""
        ...

    def remove(self, model: ServedModel) -> None:
        """Let go of what is left of an engine whose backend has been closed."""
        ...


@dataclass(slots=True)
class Entry:
    """A model. `open`: requests that are being answered; `why`: why it is not loaded."""

    model: ServedModel
    state: State = "UNAVAILABLE"
    why: str = ""
    cache_bytes: int = 0
    service: Service | None = None
    app: ASGIApp | None = None
    open: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Catalogue:
    """Used from one event loop. `state`: a file with the models that are loaded and the bytes of their KV caches; it is
    read when a server starts, so that one which is started again has those that it had."""

    def __init__(
        self, models: Mapping[str, ServedModel], opener: Opener, budget: MemoryBudget, state: Path, drain_s: float
    ) -> None:
        self.entries = {name: Entry(model) for name, model in models.items()}
        self._opener = opener
        self._budget = budget
        self._state = state
        self._drain_s = drain_s
        # What is loaded next is planned by what is loaded: one at a time.
        self._planning = asyncio.Lock()

    def open_all(self) -> None:
        """Load what the state says, before serving begins. Raises what opening raises."""
        for name, cache_bytes in read_state(self._state).items():
            entry = self.entries[name]
            self._opened(entry, cache_bytes, self._opener.open(entry.model, cache_bytes, is_there=True))

    @property
    def ready(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.state == "READY"]

    def find(self, name: str | None) -> Entry:
        """The loaded model of that name; without a name the one that is loaded, if it is one. A tag `latest` is no part
        of a name. Raises ApiError (404, 400) with the names that there are."""
        loaded = [entry.model.name for entry in self.ready]
        there = f"This server has {', '.join(loaded) or 'no model loaded'}"
        if name is None:
            if len(loaded) == 1:
                return self.entries[loaded[0]]
            message = f"Which model? {there}: name one in 'model', or put /models/NAME before the path."
            raise ApiError(400, message, param="model", code="missing_required_parameter")
        entry = self._known(name)
        if entry.state != "READY":
            hint = f"POST /v2/repository/models/{entry.model.name}/load loads it"
            message = f"The model '{name}' is not loaded. {there}; {hint}."
            raise ApiError(404, message, param="model", code="model_not_loaded")
        return entry

    async def load(self, name: str) -> None:
        """Returns when it takes requests; harmless when it does already. Raises ApiError (404) for a name that was not
        given to the server, InflightError where memory or the engine does not allow it."""
        entry = self._known(name)
        async with entry.lock:
            if entry.state == "READY":
                return
            entry.state, entry.why = "LOADING", ""
            try:
                async with self._planning:
                    loaded = {each.model: each.cache_bytes for each in self.entries.values() if each.cache_bytes}
                    entry.cache_bytes = self._budget.divide([entry.model], loaded)[entry.model.name]
                opening = asyncio.to_thread(self._opener.open, entry.model, entry.cache_bytes, is_there=False)
                self._opened(entry, entry.cache_bytes, await opening)
            except BaseException as error:
                entry.state, entry.cache_bytes, entry.why = "UNAVAILABLE", 0, str(error)
                raise
            self._write_state()

    async def unload(self, name: str) -> None:
        """New requests are refused at once, those that run have the time of a server that stops; returns when the
        memory is free. Harmless when it is not loaded. Raises ApiError (404) for a name that was not given."""
        entry = self._known(name)
        async with entry.lock:
            if entry.state != "READY":
                return
            entry.state = "UNLOADING"
            assert entry.service is not None
            deadline = time.monotonic() + self._drain_s
            while entry.open and time.monotonic() < deadline:
                await asyncio.sleep(_TICK_S)
            service, entry.service, entry.app = entry.service, None, None
            try:
                await service.backend.close()
                await asyncio.to_thread(self._opener.remove, entry.model)
            finally:
                entry.state, entry.cache_bytes, entry.why = "UNAVAILABLE", 0, "unloaded"
                self._write_state()

    async def close(self) -> None:
        """The server ends: so do all requests, with an error."""
        services = [entry.service for entry in self.entries.values() if entry.service is not None]
        await asyncio.gather(*(service.backend.close() for service in services))

    def _known(self, name: str) -> Entry:
        entry = self.entries.get(name) or self.entries.get(name.removesuffix(":latest"))
        if entry is None:
            message = f"The model '{name}' does not exist; this server has {', '.join(self.entries)}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return entry

    def _opened(self, entry: Entry, cache_bytes: int, service: Service) -> None:
        entry.service, entry.app = service, create_app(service)
        entry.state, entry.cache_bytes, entry.why = "READY", cache_bytes, ""

    def _write_state(self) -> None:
        write_state(self._state, {entry.model.name: entry.cache_bytes for entry in self.ready})


def read_state(path: Path) -> dict[str, int]:
    """What `write_state` wrote."""
    state: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    return state


def write_state(path: Path, loaded: Mapping[str, int]) -> None:
    """`loaded`: name -> bytes of the KV cache."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(loaded), encoding="utf-8")
    os.replace(new, path)
