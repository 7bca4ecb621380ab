"""The engine in this process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial

from inflight.errors import EngineError, RequestError
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.request.accumulator import PendingDeltas
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.triton_backend.openai.backends.base import problem_of


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


class EmbeddedBackend:
    """A TokenBackend over an EngineThread, which it owns.

    The event loop is woken once a step, however many requests have news: waking it takes a system call, and the loop
    would begin to compete for the interpreter while the engine's thread still hands out the step's deltas.
    """

    def __init__(self, engine: EngineThread) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        # From the engine's thread to the loop's; appending and popping are atomic.
        self._arrived: deque[tuple[Mailbox, TokenDelta]] = deque()
        engine.after_steps(self._wake_loop)

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta, None]:
        self._loop = asyncio.get_running_loop()
        mailbox = Mailbox()
        if request.params.has_grammar:
            # For up to a tenth of a second where it is new. Nothing is queued yet: a client may leave meanwhile.
            await asyncio.to_thread(self._engine.compile_grammar, request)
        self._engine.submit(request, partial(self._receive, mailbox))
        unfinished = request.num_sequences
        try:
            while unfinished:
                for delta in await mailbox.take():
                    if isinstance(delta.failure, RequestError):
                        raise delta.failure
                    if delta.failure is not None:
                        raise EngineError(f"The engine failed: {delta.error}")
                    unfinished -= delta.finish_reason is not None
                    yield delta
        finally:
            if unfinished:
                self._engine.cancel(request.request_id)

    async def cancel(self, request_id: str, index: int) -> None:
        self._engine.cancel(request_id, index)

    async def problem(self) -> str | None:
        return problem_of(self._engine)

    def stats(self) -> CoreStats | None:
        return self._engine.stats()

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)

    def _receive(self, mailbox: Mailbox, delta: TokenDelta) -> None:
        """Called by the engine's thread."""
        self._arrived.append((mailbox, delta))

    def _wake_loop(self) -> None:
        """Called by the engine's thread after a step; a loop that has closed is not woken."""
        if self._arrived and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._distribute)

    def _distribute(self) -> None:
        while self._arrived:
            mailbox, delta = self._arrived.popleft()
            mailbox.put(delta)
