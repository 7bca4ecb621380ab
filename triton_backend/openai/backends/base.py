"""The interface between the shim and what generates tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request


class TokenBackend(Protocol):
    """Generates the tokens of checked requests. Used from one event loop."""

    def generate(self, request: Request) -> AsyncGenerator[TokenDelta, None]:
        """The deltas of every sequence of `request` until the last has ended; closing it early cancels the request.

        `request.params.max_tokens` must be set. Raises EngineError when the engine fails.
        """
        ...

    async def cancel(self, request_id: str, index: int) -> None:
        """End one sequence of a running request; its stream has a last delta for it."""
        ...

    async def problem(self) -> str | None:
        """Why requests would fail now; None when the engine is healthy."""
        ...

    def stats(self) -> CoreStats | None:
        """The engine's statistics, where this process has them."""
        ...

    async def close(self) -> None: ...
