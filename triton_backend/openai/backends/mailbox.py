"""Deltas on their way to one request's stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from inflight.runtime.request.deltas import TokenDelta


class Mailbox:
    """Deltas that arrived and were not taken yet. Used from one event loop, by one reader.

    A slow reader finds the deltas of a sequence joined: under load, several tokens leave in one piece.
    """

    def __init__(self) -> None:
        self._deltas: dict[int, TokenDelta] = {}
        self._waiter: asyncio.Future[None] | None = None

    def put(self, delta: TokenDelta) -> None:
        before = self._deltas.get(delta.index)
        self._deltas[delta.index] = delta if before is None else join(before, delta)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[TokenDelta]:
        """One delta for each sequence that has news; waits until one has."""
        if not self._deltas:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken, self._deltas = self._deltas, {}
        return list(taken.values())


def join(first: TokenDelta, second: TokenDelta) -> TokenDelta:
    """Two deltas of one sequence, in order, as one: only the last of a sequence can have ended it."""
    return replace(
        second,
        token_ids=first.token_ids + second.token_ids,
        logprobs=first.logprobs + second.logprobs,
        prompt_logprobs=first.prompt_logprobs if second.prompt_logprobs is None else second.prompt_logprobs,
    )
