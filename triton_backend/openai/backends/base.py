"""The interface between the shim and what generates tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.pooling.texts import TokenizedText
from inflight.runtime.pooling.thread import PoolingThread
from inflight.runtime.pooling.vectors import Floats
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request


@runtime_checkable
class PoolingBackend(Protocol):
    """Makes vectors and scores of checked texts. Used from one event loop."""

    async def pool(self, texts: Sequence[TokenizedText]) -> list[Floats]:
        """What each of `texts` becomes, float32 [output_size], in their order. Cancelling it drops those that wait.
        Raises EngineError when the engine fails, OverloadedError when its queue is full."""
        ...


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


def problem_of(engine: EngineThread | PoolingThread) -> str | None:
    """Why an engine in this process serves no more; None while it does."""
    return None if engine.healthy else f"The engine has stopped: {engine.failure or 'it was closed'}"
