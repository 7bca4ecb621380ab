"""What every response carries, and the methods that every route has beside its own."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
# What may stand in a header and in a log: a client's own id is given back if it is such.
_SANE = re.compile(r"[!-~]{1,128}")


class AnswerWithRequestId:
    """ASGI middleware: gives every response the client's X-Request-Id, or one made up."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def allowed_methods(allow: str) -> str:
    """The header Allow for a route whose own methods are `allow`."""
    methods = [method.strip() for method in allow.split(",") if method.strip()]
    return ", ".join([*methods, "OPTIONS"])
