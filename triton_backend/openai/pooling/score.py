"""POST /score and /v1/score, as vLLM has them: pairs of texts, scored in their order."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import activated
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.pooling.other_tasks import SCORE_PATHS
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pooling import ScoreBody
from inflight.triton_backend.openai.service import Service


def score_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    async def score(body: ScoreBody, request: Request) -> Response:
        service.check_model(body.model)
        texts = _pairs(body)
        length = sum(len(query) + len(document) for query, document in texts)
        pairs = await service.tokenizing(length, lambda: _read(reader, body, texts))
        found = await pool_texts(service, request, pairs)
        if isinstance(found, Response):
            return found
        return JsonAnswer(_answer(service, body, pairs, [activated(float(each[0]), reader.facts) for each in found]))

    for path in SCORE_PATHS:
        router.post(path)(score)
    return router


def _pairs(body: ScoreBody) -> list[tuple[str, str]]:
    """One text with each of the others, or as many as there are others. Raises ApiError (400)."""
    (first_name, first), (second_name, second) = body.sides()
    firsts = [first] if isinstance(first, str) else first
    seconds = [second] if isinstance(second, str) else second
    for name, side in ((first_name, firsts), (second_name, seconds)):
        if not side:
            raise ApiError(400, f"There is no text in {name}.", param=name)
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        message = f"{first_name} has {len(firsts)} texts and {second_name} {len(seconds)}; give one, or as many."
        raise ApiError(400, message, param=first_name)
    return list(zip(firsts, seconds, strict=True))


def _read(reader: TextReader, body: ScoreBody, texts: list[tuple[str, str]]) -> list[TokenizedText]:
    (first_name, _), (second_name, _) = body.sides()
    pairs = []
    for query, document in texts:
        with blaming(second_name if query else first_name):
            pairs.append(reader.pair(query, document, truncate=body.truncate_prompt_tokens))
    return pairs


def _answer(service: Service, body: ScoreBody, pairs: list[TokenizedText], scores: list[float]) -> dict[str, Any]:
    tokens = sum(len(pair.token_ids) for pair in pairs)
    return {
        "id": f"score-{body.request_id or uuid.uuid4().hex}",
        "object": "list",
        "created": service.now(),
        "model": service.model_name,
        "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
