"""An engine that pools, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from inflight.errors import RequestError
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.pooling.texts import TokenizedText
from inflight.runtime.pooling.thread import PoolingThread
from inflight.runtime.pooling.vectors import Floats
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.triton_backend.openai.backends.base import problem_of


class GeneratesNothing:
    """The part of a TokenBackend that an engine without tokens has."""

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta, None]:
        """Raises RequestError."""
        nothing: Sequence[TokenDelta] = ()
        for delta in nothing:
            yield delta
        raise RequestError("This engine generates no text.")

    async def cancel(self, request_id: str, index: int) -> None:
        """Nothing is generated."""

    def stats(self) -> CoreStats | None:
        """None: this process does not have them."""
        return None


class EmbeddedPooling(GeneratesNothing):
    """A PoolingBackend over a PoolingThread, which it owns."""

    def __init__(self, engine: PoolingThread) -> None:
        self._engine = engine

    async def pool(self, texts: Sequence[TokenizedText]) -> list[Floats]:
        return await asyncio.wrap_future(self._engine.submit(texts))

    async def problem(self) -> str | None:
        return problem_of(self._engine)

    def stats(self) -> CoreStats | None:
        return self._engine.stats()

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)
