"""The FastAPI application: every route of the shim."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from starlette.middleware.cors import CORSMiddleware

from inflight import __version__
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.chat import chat_router
from inflight.triton_backend.openai.completions import completions_router
from inflight.triton_backend.openai.errors import ApiError, add_error_handlers
from inflight.triton_backend.openai.http_headers import REQUEST_ID, AnswerWithRequestId
from inflight.triton_backend.openai.metrics import CountAnswers
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.tokenize import tokenize_router

_READ = ["GET", "HEAD"]


def create_app(service: Service, allowed_origins: Sequence[str] = ()) -> FastAPI:
    """The application; it closes the service's backend when it shuts down.

    `allowed_origins`: the pages of other origins that browsers may let call it (CORS), "*" for all.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.backend.close()

    app = FastAPI(title="inflight", version=__version__, lifespan=lifespan, default_response_class=JsonAnswer)
    add_error_handlers(app)
    app.include_router(chat_router(service))
    app.include_router(completions_router(service))
    app.include_router(tokenize_router(service))
    _add_model_routes(app, service)
    _add_operations(app, service)
    service.metrics.watch_engine(service.backend.stats)

    app.add_middleware(CountAnswers, metrics=service.metrics)
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(AnswerWithRequestId)
    return app


def _add_model_routes(app: FastAPI, service: Service) -> None:
    @app.api_route("/v1/models", methods=_READ)
    @app.api_route("/v1/models/", methods=_READ)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @app.api_route("/v1/models/{model:path}", methods=_READ)
    async def model(model: str) -> dict[str, Any]:
        service.find_model(model)
        return _model(service)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.api_route("/health", methods=_READ)
    @app.api_route("/health/ready", methods=_READ)
    @app.api_route("/ping", methods=[*_READ, "POST"])
    async def health() -> Response:
        problem = await service.backend.problem()
        if problem is not None:
            raise ApiError(503, problem)
        return JsonAnswer({"status": "ok"})

    @app.api_route("/metrics", methods=_READ)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.api_route("/version", methods=_READ)
    async def version() -> dict[str, str]:
        return {"version": __version__}


def _model(service: Service) -> dict[str, Any]:
    """`max_model_len` as vLLM shows it: prompt and completion together."""
    return {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "inflight",
        "root": service.manifest.source.model,
        "max_model_len": service.manifest.limits.max_seq_len,
    }
