"""The FastAPI application: every route of the shim."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.middleware.cors import CORSMiddleware

from inflight import __version__
from inflight.engine_format.manifest import PoolingFacts
from inflight.errors import RequestError
from inflight.runtime.pooling.texts import TextReader
from inflight.runtime.text.prompt_characters import most_characters
from inflight.triton_backend.dialects.anthropic.models import VERSION, model_info, models_page
from inflight.triton_backend.dialects.routes import ERROR_SHAPES, TRUNCATING, dialect_routers
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.chat import chat_router
from inflight.triton_backend.openai.completions import completions_router
from inflight.triton_backend.openai.errors import ApiError, add_error_handlers
from inflight.triton_backend.openai.http_headers import REQUEST_ID, AnswerHead, AnswerWithRequestId
from inflight.triton_backend.openai.limits import BoundBodies, EngineLimits
from inflight.triton_backend.openai.metrics import CountAnswers
from inflight.triton_backend.openai.pooling.classify import classify_router
from inflight.triton_backend.openai.pooling.embeddings import embeddings_router
from inflight.triton_backend.openai.pooling.encode import pooling_router
from inflight.triton_backend.openai.pooling.other_tasks import other_tasks_router
from inflight.triton_backend.openai.pooling.rerank import rerank_router
from inflight.triton_backend.openai.pooling.score import score_router
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.tokenize import tokenize_router


def create_app(service: Service, allowed_origins: Sequence[str] = ()) -> FastAPI:
    """The application; it closes the service's backend when it shuts down.

    `allowed_origins`: the pages of other origins that browsers may let call it (CORS), "*" for all.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.backend.close()

    app = FastAPI(
        title="inflight",
        version=__version__,
        lifespan=lifespan,
        default_response_class=JsonAnswer,
        # Without it /openapi.json would promise a 422, which no answer has.
        responses={"4XX": {"description": "An error in the shape of the API whose path it is"}},
    )
    add_error_handlers(app, ERROR_SHAPES)
    for router in (*_task_routers(service), *dialect_routers(service)):
        app.include_router(router)
    app.include_router(tokenize_router(service))
    _add_model_routes(app, service)
    _add_operations(app, service)
    service.metrics.watch_engine(service.backend.stats)

    app.add_middleware(
        BoundBodies,
        engine=_engine_limits(service),
        shapes=ERROR_SHAPES,
        max_bytes=service.max_body_bytes,
        truncating=TRUNCATING,
    )
    app.add_middleware(CountAnswers, metrics=service.metrics)
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(AnswerHead)
    app.add_middleware(AnswerWithRequestId)
    return app


def _task_routers(service: Service) -> list[APIRouter]:
    """What the engine was built for, and routes of other tasks that say so."""
    pooling = service.manifest.pooling
    if not isinstance(pooling, PoolingFacts):
        return [chat_router(service), completions_router(service), other_tasks_router(service, "generate")]
    own = {
        "embed": [embeddings_router, rerank_router, score_router, pooling_router],
        "score": [rerank_router, score_router, classify_router, pooling_router],
        "classify": [classify_router, pooling_router],
        "token_classify": [pooling_router],
    }[pooling.task]
    return [*(each(service) for each in own), other_tasks_router(service, pooling.task)]


def _engine_limits(service: Service) -> EngineLimits:
    max_seq_len = service.manifest.limits.max_seq_len
    return EngineLimits(max_seq_len, most_characters(service.tokenizer, max_seq_len))


def _add_model_routes(app: FastAPI, service: Service) -> None:
    task = _task(service)

    @app.get("/v1/models")
    @app.get("/v1/models/")
    async def models(request: Request) -> dict[str, Any]:
        if VERSION in request.headers:
            return models_page(service)
        return {"object": "list", "data": [_model(service, task)]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        service.find_model(model)
        return model_info(service) if VERSION in request.headers else _model(service, task)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    @app.get("/health/ready")
    @app.api_route("/ping", methods=["GET", "POST"], include_in_schema=False)
    async def health() -> Response:
        problem = await service.backend.problem()
        if problem is not None:
            raise ApiError(503, problem)
        return JsonAnswer({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}


def _task(service: Service) -> dict[str, Any]:
    """What the model is for: "generate", "embed", "score", "classify" or "token_classify"."""
    pooling = service.manifest.pooling
    if not isinstance(pooling, PoolingFacts):
        return {"task": "generate"}
    more: dict[str, Any] = {"dimensions": pooling.vector_size} if pooling.task == "embed" else {}
    more = {"labels": pooling.labels} if pooling.task in ("classify", "token_classify") else more
    more |= {"score_tokens": pooling.scored_by} if pooling.scored_by else {}
    more |= {} if (asked := _usual_instruction(service)) is None else {"instruction": asked}
    return {"task": pooling.task, **more}


def _usual_instruction(service: Service) -> str | None:
    """That of pairs without one, where the template takes one; a template that takes no pairs is refused with them."""
    try:
        return TextReader(service.manifest, service.tokenizer).usual_instruction
    except RequestError:
        return None


def _model(service: Service, task: dict[str, Any]) -> dict[str, Any]:
    """`max_model_len` as vLLM shows it: prompt and completion together. `accuracy` where the engine has a record."""
    model = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "inflight",
        "root": service.manifest.source.model,
        "max_model_len": service.manifest.limits.max_seq_len,
        **task,
    }
    return model if service.accuracy is None else {**model, "accuracy": service.accuracy}
