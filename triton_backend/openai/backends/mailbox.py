"""Deltas on their way to one request's stream."""

from __future__ import annotations

import asyncio

from inflight.runtime.request.accumulator import PendingDeltas
from inflight.runtime.request.deltas import TokenDelta


class Mailbox:
    """Deltas that arrived and were not taken yet. Used from one event loop, by one reader.

    A slow reader finds the deltas of a sequence joined: under load, several tokens leave in one piece.
    """

    def __init__(self) -> None:
        self._pending = PendingDeltas()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, delta: TokenDelta) -> None:
        self._pending.put(delta)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[TokenDelta]:
        """One delta for each sequence that has news; waits until one has."""
        if not self._pending:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._pending.take()
