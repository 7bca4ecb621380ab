"""Which model the body of a request is for, and what Ollama's clients say of keeping it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Receive

_OLLAMA = ("/api/chat", "/api/generate")
_AT_ONCE = (0, "0", "0s", "0m")


@dataclass(frozen=True, slots=True)
class Asked:
    """`name`: the model's, None without one. `keeps`: of Ollama's requests without a prompt, which load a model (True)
    or unload it (False). `leaves`: whether the model is to be unloaded when the request has been answered."""

    name: str | None
    keeps: bool | None = None
    leaves: bool = False


def read_asked(path: str, body: bytes) -> Asked:
    """What is no JSON object, or names the model by what is no text, names none: the routes say what is wrong."""
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        return Asked(None)
    if not isinstance(fields, dict):
        return Asked(None)
    name = fields.get("model")
    if name is None and path.startswith("/api/"):
        name = fields.get("name")
    name = name if isinstance(name, str) and name else None
    if path not in _OLLAMA:
        return Asked(name)
    keep = fields.get("keep_alive")
    at_once = not isinstance(keep, bool) and keep in _AT_ONCE
    if not fields.get("messages") and not fields.get("prompt"):
        return Asked(name, keeps=not at_once)
    return Asked(name, leaves=at_once)


def replay(message: Message, receive: Receive) -> Receive:
    """`receive` for a request whose body has been read, in one piece."""
    pending = [message]

    async def replaying() -> Message:
        return pending.pop() if pending else await receive()

    return replaying
