"""Requests that are too large are refused before they are read, parsed or tokenized.

One request may fill the engine's batch and its KV cache; it may not hold up the process that serves the others. The
limits are far above what clients send, and what is within them takes milliseconds. Those of the sampling parameters
stand in their own table, inflight.sampling_parameters.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inflight.sampling_parameters import SAMPLING_PARAMETERS
from inflight.triton_backend.openai.errors import ApiError, ErrorShapes

# Of one body as it is sent: 4 MiB of text are a million tokens.
MAX_BODY_BYTES = 4 << 20
# Many small values take a hundred times as long to read as one long text.
MAX_CONTAINERS = 1 << 14
MAX_VALUES = 1 << 18
# OpenAI's limit for a batch of inputs.
MAX_PROMPTS = 2048
MAX_MESSAGES = 2048
# Over all messages of a request.
MAX_CONTENT_PARTS = 4096
# OpenAI's limit.
MAX_METADATA = 16
# As JSON; Python and Triton, whose embedding_bias is a plain array, take one for each token.
MAX_LOGIT_BIAS = 1 << 14

# A smaller body has no room for more than any limit allows, stop strings aside, which SamplingParams counts.
_SMALL = 4096
# After a refusal this much is read and thrown away, so that the client, which may still be sending, gets to read it.
_MOST_DISCARDED, _LONGEST_DISCARDING_S = 64 << 20, 10.0
# Also one that does not end, so that it is looked for once.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_LISTS = {row.name: row.most for row in SAMPLING_PARAMETERS if row.openai and row.most} | {
    "metadata": MAX_METADATA,
    "logit_bias": MAX_LOGIT_BIAS,
}


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine's size allows: token ids and characters of one prompt."""

    max_seq_len: int
    characters: int


class BoundBodies:
    """ASGI middleware: reads a request's body, at most `max_bytes` of it, and passes it on in one piece.

    A body that is too large is refused by its Content-Length, or while it comes in; a slow one holds its own connection
    alone. `truncating`: the paths whose inputs are truncated unless it is asked for that they are not.
    """

    def __init__(
        self,
        app: ASGIApp,
        engine: EngineLimits,
        shapes: ErrorShapes,
        max_bytes: int = MAX_BODY_BYTES,
        truncating: Collection[str] = (),
    ) -> None:
        self._app = app
        self._engine = engine
        self._shapes = shapes
        self._truncating = truncating
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
            if body is None:
                return
            check_body(body, self._engine, scope["path"] in self._truncating)
        except ApiError as refusal:
            response = self._shapes.answer(scope["path"], refusal.problem, {"Connection": "close"})
            await _refuse(response, scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when the client left before its end. Raises ApiError for one that is encoded or too large."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if encoding.strip().lower() not in ("identity", ""):
            refusal = f"The body comes as Content-Encoding: {encoding[:40]}; this server reads bodies as they are."
            raise ApiError(415, refusal, code="unsupported_content_encoding")
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large(f"{int(announced)} bytes")
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                raise self._too_large(f"more than {self._max_bytes} bytes")
            more = message.get("more_body", False)
        return b"".join(parts)

    def _too_large(self, size: str) -> ApiError:
        return ApiError(413, f"The body has {size}; the limit is {self._max_bytes}.", code="request_too_large")


def check_body(body: bytes, engine: EngineLimits, is_truncating: bool = False) -> None:
    """Raises ApiError for a JSON body with more of anything than a request may have. What is no JSON passes.
    `is_truncating`: its inputs are truncated unless it says that they are not."""
    if len(body) <= _SMALL:
        return
    _check_structure(body, max(MAX_VALUES, 2 * engine.max_seq_len))
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        # Of a prompt that is to be truncated only the end counts, or the beginning; the body's limit bounds the rest.
        truncates = value.get("truncate_prompt_tokens") is not None or value.get("truncate", is_truncating) is True
        truncates = truncates or _truncates(value.get("parameters"))
        length_of = None if truncates else engine
        for name in ("prompt", "input", "inputs", "query", "documents", "texts"):
            _check_prompts(name, value.get(name), length_of)
        _check_messages(value.get("messages"), length_of)
        for name, most in _LISTS.items():
            _check_length(name, value.get(name), most)


def _truncates(parameters: Any) -> bool:
    """Of TGI's bodies."""
    return isinstance(parameters, dict) and parameters.get("truncate") is not None


def _check_structure(body: bytes, max_values: int) -> None:
    """Before it is parsed: counts brackets and commas, those outside of strings when there are many in all."""
    if _count(body, b"[{") > MAX_CONTAINERS or _count(body, b",") > max_values:
        # To strip many strings or escapes would itself take long.
        bare = body if _count(body, b'"\\') > max_values else _STRING.sub(b"", body)
        for what, found, most in (
            ("lists and objects", _count(bare, b"[{"), MAX_CONTAINERS),
            ("values", _count(bare, b","), max_values),
        ):
            if found > most:
                raise ApiError(413, f"The body has {found} {what}; the limit is {most}.", code="request_too_large")


def _count(body: bytes, characters: bytes) -> int:
    return sum(body.count(character) for character in characters)


def _check_prompts(name: str, prompts: Any, engine: EngineLimits | None) -> None:
    """One prompt, text or token ids, or a list of them. `engine` None: they may have any length."""
    listed = isinstance(prompts, list) and not (prompts and isinstance(prompts[0], int))
    if not listed:
        prompts = [prompts]
    _check_length(name, prompts, MAX_PROMPTS)
    for index, prompt in enumerate(prompts):
        place = f"{name}.{index}" if listed else name
        if isinstance(prompt, str):
            _check_text(place, len(prompt), engine)
        elif isinstance(prompt, list) and engine is not None and len(prompt) > engine.max_seq_len:
            raise _too_long(place, f"{len(prompt)} tokens in the {place}", engine)


def _check_messages(messages: Any, engine: EngineLimits | None) -> None:
    if not isinstance(messages, list):
        return
    _check_length("messages", messages, MAX_MESSAGES)
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    _check_length("messages.content", parts, MAX_CONTENT_PARTS)
    _check_text("messages", sum(map(len, _texts(contents, parts))), engine)


def _texts(contents: list[Any], parts: list[Any]) -> Iterator[str]:
    yield from (content for content in contents if isinstance(content, str))
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    yield from (text for text in texts if isinstance(text, str))


def _check_text(name: str, num_characters: int, engine: EngineLimits | None) -> None:
    if engine is not None and num_characters > engine.characters:
        raise _too_long(name, f"{num_characters} characters in the {name}, more than so many tokens can have", engine)


def _too_long(name: str, has: str, engine: EngineLimits) -> ApiError:
    message = f"This model's maximum context length is {engine.max_seq_len} tokens. The request has {has}."
    return ApiError(400, message, param=name, code="context_length_exceeded")


def _check_length(name: str, value: Any, most: int) -> None:
    if isinstance(value, (list, dict)) and len(value) > most:
        raise ApiError(
            400,
            f"Invalid '{name}': it has {len(value)} entries; the limit is {most}.",
            param=name,
            code="array_above_max_length" if isinstance(value, list) else "object_above_max_properties",
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for a request whose body was read: first the body, then what comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> Message:
        return pending.pop() if pending else await receive()

    return replaying


async def _refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, then throw away what still comes in: a connection that is closed before loses the answer."""

    async def holding_end(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, holding_end)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_discard(receive), _LONGEST_DISCARDING_S)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    discarded = 0
    more = True
    while more and discarded < _MOST_DISCARDED:
        message = await receive()
        discarded += len(message.get("body", b""))
        more = message.get("more_body", False)
