"""POST /v1/rerank, and /rerank as Text Embeddings Inference (TEI) has it."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.pooling.texts import ALL_THAT_FIT, TextReader
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.pooling.other_tasks import RERANK_PATHS
from inflight.triton_backend.openai.pooling.pairs import Pairs, Side, read_pairs
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pairs import RerankBody
from inflight.triton_backend.openai.service import Service


def rerank_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    async def rerank(body: RerankBody, request: Request) -> Response:
        service.check_model(body.model)
        documents = _documents(body)
        as_they_are = body.raw_scores or body.activated is False
        truncate = body.truncate_prompt_tokens
        if truncate is None and body.truncate:
            truncate = ALL_THAT_FIT
        query = Side("query", [body.query], listed=False)
        length = len(body.query) * len(documents.texts) + sum(map(len, documents.texts))
        pairs = await service.tokenizing(length, lambda: read_pairs(reader, query, documents, body, truncate))
        found = await pool_texts(service, request, pairs.texts)
        if isinstance(found, Response):
            return found
        raw = pairs.scores(found, reader, raw=True)
        as_meant = raw if as_they_are else pairs.scores(found, reader)
        # Of equal scores the first document stays first. A raw score tells apart what two that are nearly 1 do not.
        # vLLM's clients spell out its default, 0, for all of them.
        order = sorted(range(len(raw)), key=lambda index: -raw[index])[: body.top_n or None]
        answer = _as_tei if body.texts is not None else _as_jina
        return JsonAnswer(answer(service, body, pairs, as_meant, order))

    for path in RERANK_PATHS:
        router.post(path)(rerank)
    return router


def _documents(body: RerankBody) -> Side:
    if (body.documents is None) == (body.texts is None):
        raise ApiError(400, "Give documents, or texts as TEI calls them.", param="documents")
    listed = body.documents if body.documents is not None else body.texts or []
    if not listed:
        raise ApiError(400, "There is no document.", param="documents" if body.texts is None else "texts")
    name = "documents" if body.texts is None else "texts"
    return Side(name, [each if isinstance(each, str) else each.text for each in listed], listed=True)


def _as_jina(
    service: Service,
    body: RerankBody,
    pairs: Pairs,
    scores: list[float],
    order: list[int],
) -> dict[str, Any]:
    return {
        "id": f"rerank-{body.request_id or uuid.uuid4().hex}",
        "model": service.model_name,
        "usage": {"prompt_tokens": pairs.tokens, "total_tokens": pairs.tokens},
        "results": [
            {
                "index": index,
                **({"document": _as_given(body, index)} if body.return_documents else {}),
                "relevance_score": scores[index],
            }
            for index in order
        ],
    }


def _as_given(body: RerankBody, index: int) -> dict[str, Any]:
    document = (body.documents or [])[index]
    return {"text": document} if isinstance(document, str) else document.model_dump()


def _as_tei(
    service: Service,
    body: RerankBody,
    pairs: Pairs,
    scores: list[float],
    order: list[int],
) -> list[dict[str, Any]]:
    texts = body.texts or []
    return [
        {"index": index, "score": scores[index], **({"text": texts[index]} if body.return_text else {})}
        for index in order
    ]
