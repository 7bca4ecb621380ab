"""What stands before the API: it refuses requests while the server stops, and tells a load balancer when to wait."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inflight.triton_backend.dialects.routes import ERROR_SHAPES
from inflight.triton_backend.openai.errors import Problem

_HEALTH = ("/health", "/health/ready")
# How long a client should wait before it asks this address again, in seconds.
_RETRY_AFTER = (b"retry-after", b"2")
_REFUSED = {"Connection": "close", "Retry-After": "2"}


class Gate:
    """ASGI middleware that counts the requests that are open.

    While `closed` is set every new request is answered 503 with it. `problem` says why the engine is not ready although
    nothing has failed; it is asked for /health alone. Every 503 has Retry-After.
    """

    def __init__(self, app: ASGIApp, problem: Callable[[], str | None]) -> None:
        self._app = app
        self._problem = problem
        self.closed: str | None = None
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        why = self.closed or (self._problem() if scope["path"] in _HEALTH else None)
        if why is not None:
            await ERROR_SHAPES.answer(scope["path"], Problem(503, why), _REFUSED)(scope, receive, send)
            return
        self.open += 1
        try:
            await self._app(scope, receive, _with_retry_after(send))
        finally:
            self.open -= 1


def _with_retry_after(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 503:
            headers = list(message.get("headers", ()))
            if not any(name.lower() == _RETRY_AFTER[0] for name, _ in headers):
                message = {**message, "headers": [*headers, _RETRY_AFTER]}
        await send(message)

    return sending
