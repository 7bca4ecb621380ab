"""Routes of tasks that the engine was not built for: they say what it was built for."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response

from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.service import Service

Task = Literal["generate", "embed", "score", "classify", "token_classify"]

RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
SCORE_PATHS = ("/score", "/v1/score")
CLASSIFY_PATHS = ("/classify",)
POOLING_PATHS = ("/pooling",)
# The first paths of a task are what a refusal names.
_GENERATING_DIALECTS = (
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/api/chat",
    "/api/generate",
    "/generate",
    "/generate_stream",
)
_PATHS: dict[Task, tuple[str, ...]] = {
    "generate": ("/v1/chat/completions", "/v1/completions", *_GENERATING_DIALECTS),
    "embed": ("/v1/embeddings", "/api/embed", "/api/embeddings", *RERANK_PATHS, *SCORE_PATHS, *POOLING_PATHS),
    "score": (*RERANK_PATHS, *SCORE_PATHS, *CLASSIFY_PATHS, *POOLING_PATHS),
    "classify": (*CLASSIFY_PATHS, *POOLING_PATHS),
    "token_classify": POOLING_PATHS,
}
_OF_PAIRS = (*RERANK_PATHS, *SCORE_PATHS)
_BY_TOKENS = (
    " A model that judges pairs by saying yes or no, as Qwen3-Reranker does, scores them when it is built with "
    "--score-tokens yes,no."
)
_DOES: dict[Task, str] = {
    "generate": "generates text",
    "embed": "makes embeddings of texts",
    "score": "scores documents for a query",
    "classify": "classifies texts",
    "token_classify": "classifies single tokens",
}


def other_tasks_router(service: Service, task: Task) -> APIRouter:
    """The routes of all tasks but `task`."""
    router = APIRouter()

    async def refuse(request: Request) -> Response:
        message = f"The model '{service.model_name}' {_DOES[task]}: {' and '.join(_PATHS[task][:2])}."
        if task == "generate" and request.url.path in _OF_PAIRS:
            message += _BY_TOKENS
        raise ApiError(400, message, param="model", code="model_not_supported")

    others = dict.fromkeys(path for paths in _PATHS.values() for path in paths if path not in _PATHS[task])
    for path in others:
        router.post(path, include_in_schema=False)(refuse)
    return router
