"""An answer whole or as server-sent events, and noticing that a client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from inflight.errors import InflightError
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer, json_bytes
from inflight.triton_backend.openai.errors import ApiError, describe

T = TypeVar("T")
Event = dict[str, Any]

# nginx's status for a client that has closed the connection; only visible in the metrics.
CLIENT_GONE = Response(status_code=499)


class Answer(Protocol):
    """One answer in either of its two shapes."""

    def whole(self) -> Coroutine[Any, Any, dict[str, Any]]: ...

    def events(self) -> AsyncGenerator[Event, None]: ...


async def respond(request: Request, answer: Answer, stream: bool) -> Response:
    """Give `answer` in the shape that was asked for. When the client goes away, generating it ends."""
    if stream:
        return await event_stream(request, answer.events())
    whole = await unless_disconnected(request, answer.whole())
    return CLIENT_GONE if whole is None else JsonAnswer(whole)


async def event_stream(request: Request, events: AsyncGenerator[Event, None]) -> Response:
    """The events as `data:` lines, then [DONE]. Waits for the first, so that an error before it is a plain answer.

    A client that goes away while the first is waited for, in the engine's queue, leaves the queue; later `events` is
    closed at its next await.
    """
    try:
        first = await unless_disconnected(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    if first is None:
        await events.aclose()
        return CLIENT_GONE
    return StreamingResponse(
        _lines(first, events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def _lines(first: Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield _line(first)
        try:
            async for event in events:
                yield _line(event)
        except (ApiError, InflightError) as error:
            yield _line(describe(error))
            return
        yield b"data: [DONE]\n\n"


def _line(event: Event) -> bytes:
    return b"data: " + json_bytes(event) + b"\n\n"


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T | None:
    """The result of `work`; None when the client went away first, and `work` was cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Return when the connection is closed; the body has been read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
