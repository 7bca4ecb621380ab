"""The engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from inflight.errors import EngineError
from inflight.runtime.deltas import TokenDelta
from inflight.runtime.engine_thread import EngineThread
from inflight.runtime.request import Request
from inflight.runtime.stats import CoreStats


class EmbeddedBackend:
    """A TokenBackend over an EngineThread, which it owns."""

    def __init__(self, engine: EngineThread) -> None:
        self._engine = engine

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta, None]:
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[TokenDelta] = asyncio.Queue()

        def receive(delta: TokenDelta) -> None:
            """Called by the engine's thread; a loop that has closed has nobody left to tell."""
            if not loop.is_closed():
                loop.call_soon_threadsafe(deltas.put_nowait, delta)

        self._engine.submit(request, receive)
        unfinished = request.num_sequences
        try:
            while unfinished:
                delta = await deltas.get()
                # `get` does not give way while there is something to get, and others must have a turn.
                await asyncio.sleep(0)
                if delta.finish_reason == "error":
                    raise EngineError(f"The engine failed: {delta.error}")
                unfinished -= delta.finish_reason is not None
                yield delta
        finally:
            if unfinished:
                self._engine.cancel(request.request_id)

    async def cancel(self, request_id: str, index: int) -> None:
        self._engine.cancel(request_id, index)

    async def problem(self) -> str | None:
        if self._engine.healthy:
            return None
        return f"The engine has stopped: {self._engine.failure or 'it was closed'}"

    def stats(self) -> CoreStats | None:
        return self._engine.stats()

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)
