"""The application of a server of several models: it finds the model of a request, whose own application answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from inflight.errors import InflightError
from inflight.triton_backend.dialects.ollama.answer import timestamp
from inflight.triton_backend.dialects.routes import ERROR_SHAPES
from inflight.triton_backend.models.all_models import (
    HEALTH,
    LISTS,
    answer_of,
    index,
    joined_list,
    metrics_text,
    problems,
)
from inflight.triton_backend.models.asking import Asked, read_asked, replay
from inflight.triton_backend.models.catalogue import Catalogue, Entry
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import ApiError, problem_of
from inflight.triton_backend.openai.http_headers import REQUEST_ID, AnswerHead, AnswerWithRequestId
from inflight.triton_backend.openai.limits import BoundBodies, EngineLimits

_PREFIX = "/models/"
_REPOSITORY = "/v2/repository/"
_STORED = "/v1/responses/"
_OF_A_MODEL = re.compile(r"/v1/models/(.+)/(load|unload)")
_NO_LIMIT = 1 << 62


class Front:
    """An ASGI application over those of the models of `catalogue`, whose backends it closes when it shuts down.

    A request is for the model that its path begins with (`/models/NAME/v1/...`), else for the one that its body names.
    """

    def __init__(self, catalogue: Catalogue, allowed_origins: Sequence[str], max_body_bytes: int) -> None:
        self._catalogue = catalogue
        # Each model's application bounds what its own engine does.
        limits = EngineLimits(_NO_LIMIT, _NO_LIMIT)
        app: ASGIApp = BoundBodies(self._route, limits, ERROR_SHAPES, max_body_bytes)
        if allowed_origins:
            app = CORSMiddleware(
                app,
                allow_origins=list(allowed_origins),
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=[REQUEST_ID],
            )
        self._app = AnswerWithRequestId(AnswerHead(app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await self._catalogue.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive, send)
        except (ApiError, InflightError, OSError) as error:
            answer = ERROR_SHAPES.answer(scope["path"], problem_of(error, 503))
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """The server's own answer; None where a model's application has given one."""
        path: str = scope["path"]
        asked = Asked(None)
        if scope["method"] == "POST":
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body = message.get("body", b"")
            asked, receive = read_asked(path, body), replay(message, receive)
            if (
                path.startswith(_REPOSITORY)
                or path in ("/models/load", "/models/unload")
                or _OF_A_MODEL.fullmatch(path)
            ):
                return await self._control(path, asked)
        elif scope["method"] == "GET" and (answer := await self._of_all(scope)) is not None:
            return answer
        if path in HEALTH:
            return await self._health()
        if path.startswith(_PREFIX) and "/" in path[len(_PREFIX) :]:
            name, _, rest = path[len(_PREFIX) :].partition("/")
            entry = self._catalogue.find(name)
            await self._serve(entry, {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, receive, send)
            return None
        if path.startswith("/v1/models/"):
            entry = self._catalogue.find(path[len("/v1/models/") :])
        elif path.startswith(_STORED):
            entry = await self._that_stores(path[len(_STORED) :].partition("/")[0])
        elif scope["method"] == "POST":
            if asked.keeps is not None:
                return await self._keep(path, asked)
            entry = self._catalogue.find(asked.name)
        else:
            entry = self._any()
        await self._serve(entry, scope, receive, send)
        if asked.leaves:
            await self._catalogue.unload(entry.model.name)
        return None

    async def _serve(self, entry: Entry, scope: Scope, receive: Receive, send: Send) -> None:
        assert entry.app is not None
        entry.open += 1
        try:
            await entry.app(scope, receive, send)
        finally:
            entry.open -= 1

    async def _of_all(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if path in LISTS:
            return JsonAnswer(await joined_list(self._catalogue, scope))
        if path == "/metrics":
            return Response(metrics_text(self._catalogue), media_type="text/plain; version=0.0.4")
        if path == "/":
            return PlainTextResponse(
                f"inflight serves {', '.join(each.model.name for each in self._catalogue.ready)}\n"
            )
        if path == "/info":
            self._catalogue.find(None)
        return None

    async def _health(self) -> Response:
        found = await problems(self._catalogue)
        if found:
            raise ApiError(503, " ".join(found))
        return JsonAnswer({"status": "ok"})

    async def _control(self, path: str, asked: Asked) -> Response:
        """Loading and unloading, in the paths of Triton, of its OpenAI frontend and of llama.cpp's router."""
        if path == "/v2/repository/index":
            return JsonAnswer(index(self._catalogue))
        if (found := _OF_A_MODEL.fullmatch(path)) is not None:
            name, verb = found[1], found[2]
        elif path.startswith(_REPOSITORY):
            name, _, verb = path.removeprefix(f"{_REPOSITORY}models/").rpartition("/")
        else:
            name, verb = asked.name or "", path.rpartition("/")[2]
        if verb not in ("load", "unload") or not name:
            message = f"This server has no {path}. A model is loaded by POST /v2/repository/models/NAME/load."
            raise ApiError(404, message)
        await (self._catalogue.load(name) if verb == "load" else self._catalogue.unload(name))
        return JsonAnswer({"success": True})

    async def _keep(self, path: str, asked: Asked) -> Response:
        """Ollama's requests without a prompt."""
        if asked.name is None:
            raise ApiError(400, "Missing required parameter: 'model'.", param="model")
        await (self._catalogue.load(asked.name) if asked.keeps else self._catalogue.unload(asked.name))
        said: dict[str, Any] = {"model": asked.name, "created_at": timestamp()}
        empty = {"message": {"role": "assistant", "content": ""}} if path == "/api/chat" else {"response": ""}
        return JsonAnswer({**said, **empty, "done": True, "done_reason": "load" if asked.keeps else "unload"})

    async def _that_stores(self, response_id: str) -> Entry:
        """The model that has a stored response; any where none has, whose application says so."""
        for entry in self._catalogue.ready:
            if entry.app is not None and await self._stores(entry, response_id):
                return entry
        return self._any()

    async def _stores(self, entry: Entry, response_id: str) -> bool:
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": f"{_STORED}{response_id}", "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "raw_path": b"", "root_path": ""}
        assert entry.app is not None
        return (await answer_of(entry.app, scope))[0] == 200

    def _any(self) -> Entry:
        """For what is the same for every model."""
        if not self._catalogue.ready:
            raise ApiError(503, "No model is loaded. POST /v2/repository/models/NAME/load loads one.")
        return self._catalogue.ready[0]
