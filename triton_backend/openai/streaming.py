"""An answer whole or as server-sent events, and noticing that a client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from inflight.errors import InflightError
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer, json_bytes
from inflight.triton_backend.openai.errors import ApiError, Problem, openai_error, problem_of

T = TypeVar("T")
Event = dict[str, Any]

# nginx's status for a client that has closed the connection; only visible in the metrics.
CLIENT_GONE = Response(status_code=499)


@dataclass(frozen=True, slots=True)
class Framing:
    """How the events of a stream are written, what is written of an error that ends it, and what at its end."""

    media_type: str
    event: Callable[[Event], bytes]
    error: Callable[[Problem], bytes]
    end: bytes = b""


def data_line(event: Event) -> bytes:
    """A server-sent event."""
    return b"data: " + json_bytes(event) + b"\n\n"


def event_lines(event: Event) -> bytes:
    """A server-sent event that has its type for a name: clients of some dialects go by that."""
    return b"event: " + str(event["type"]).encode() + b"\n" + data_line(event)


def _data_error(problem: Problem) -> bytes:
    return data_line(openai_error(problem)[1])


SERVER_SENT = "text/event-stream"
_OPENAI = Framing(SERVER_SENT, data_line, _data_error, b"data: [DONE]\n\n")


class Answer(Protocol):
    """One answer in either of its two shapes."""

    def whole(self) -> Coroutine[Any, Any, Any]: ...

    def events(self) -> AsyncGenerator[Event, None]: ...


async def respond(request: Request, answer: Answer, stream: bool, framing: Framing = _OPENAI) -> Response:
    """Give `answer` in the shape that was asked for. When the client goes away, generating it ends."""
    if stream:
        return await _event_stream(request, answer.events(), framing)
    whole = await unless_disconnected(request, answer.whole())
    return CLIENT_GONE if whole is None else JsonAnswer(whole)


async def _event_stream(request: Request, events: AsyncGenerator[Event, None], framing: Framing) -> Response:
    """Waits for the first event, so that an error before it is a plain answer.

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
        _written(first, events, framing), media_type=framing.media_type, headers={"Cache-Control": "no-cache"}
    )


async def _written(first: Event, events: AsyncGenerator[Event, None], framing: Framing) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield framing.event(first)
        try:
            async for event in events:
                yield framing.event(event)
        except (ApiError, InflightError) as error:
            yield framing.error(problem_of(error, 500))
            return
        if framing.end:
            yield framing.end


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
