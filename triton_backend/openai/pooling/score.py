"""POST /score and /v1/score, as vLLM has them: pairs of texts, scored in their order, or cosines of their vectors."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.pooling.texts import TextReader
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.pooling.label_scores import check_labels, label_scores, read_items
from inflight.triton_backend.openai.pooling.other_tasks import SCORE_PATHS
from inflight.triton_backend.openai.pooling.pairs import Pairs, Side, read_pairs
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pairs import ScoreBody
from inflight.triton_backend.openai.service import Service


def score_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    async def score(body: ScoreBody, request: Request) -> Response:
        service.check_model(body.model)
        if body.query is not None:
            return await of_labels(body, request)
        (first, second), raw = _sides(body), body.activated is False
        length = sum(map(len, first.texts)) * (len(second.texts) if len(first.texts) == 1 else 1)
        length += sum(map(len, second.texts))
        truncate = body.truncate_prompt_tokens
        pairs = await service.tokenizing(length, lambda: read_pairs(reader, first, second, body, truncate))
        found = await pool_texts(service, request, pairs.texts)
        if isinstance(found, Response):
            return found
        return JsonAnswer(_answer(service, body, pairs, pairs.scores(found, reader, raw=raw)))

    async def of_labels(body: ScoreBody, request: Request) -> Response:
        check_labels(reader, body)
        items = [body.items] if isinstance(body.items, str) else body.items or []
        length = sum(map(len, items)) + len(items) * len(body.query or ())
        texts = await service.tokenizing(length, lambda: read_items(reader, body))
        found = await pool_texts(service, request, texts)
        if isinstance(found, Response):
            return found
        return JsonAnswer(label_scores(service, reader, body, texts, found))

    for path in SCORE_PATHS:
        router.post(path)(score)
    return router


def _sides(body: ScoreBody) -> tuple[Side, Side]:
    """One text with each of the others, or as many as there are others. Raises ApiError (400)."""
    first, second = (
        Side(name, [given] if isinstance(given, str) else given, not isinstance(given, str))
        for name, given in body.sides()
    )
    for side in (first, second):
        if not side.texts:
            raise ApiError(400, f"There is no text in {side.name}.", param=side.name)
    if len(first.texts) not in (1, len(second.texts)):
        counts = f"{first.name} has {len(first.texts)} texts and {second.name} {len(second.texts)}"
        raise ApiError(400, f"{counts}; give one, or as many.", param=first.name)
    return first, second


def _answer(service: Service, body: ScoreBody, pairs: Pairs, scores: list[float]) -> dict[str, Any]:
    return {
        "id": f"score-{body.request_id or uuid.uuid4().hex}",
        "object": "list",
        "created": service.now(),
        "model": service.model_name,
        "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)],
        "usage": {"prompt_tokens": pairs.tokens, "total_tokens": pairs.tokens},
    }
