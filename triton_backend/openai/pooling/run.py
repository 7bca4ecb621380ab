"""One request's texts through the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import Request, Response

from inflight.runtime.pooling.texts import TokenizedText
from inflight.runtime.pooling.vectors import Floats
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.streaming import CLIENT_GONE, unless_disconnected


async def pool_texts(service: Service, request: Request, texts: Sequence[TokenizedText]) -> list[Floats] | Response:
    """What the texts become; the answer to nobody when the client has gone, and what waited was dropped."""
    started = time.monotonic()
    service.metrics.request_started(sum(len(text.token_ids) for text in texts))
    try:
        found = await unless_disconnected(request, service.pooling.pool(texts))
    finally:
        service.metrics.request_ended(started)
    return CLIENT_GONE if found is None else found
