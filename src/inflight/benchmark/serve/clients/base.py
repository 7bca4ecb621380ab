"""The interface of a measuring client."""

from __future__ import annotations

from typing import Protocol

from inflight.benchmark.serve.requests import Outcome, Prompt


class Client(Protocol):
    """Sends requests to one server, from one event loop. `model`: the name that it asks for there.

    `max_seq_len`: the most tokens of a sequence, prompt and output, where the server says so.
    """

    model: str
    max_seq_len: int | None

    async def send(self, prompt: Prompt) -> Outcome:
        """Send one request and read its stream to the end. A failure is the outcome's `error` and never raised."""
        ...

    async def close(self) -> None: ...
