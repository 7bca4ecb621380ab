"""POST /v1/rerank, and /rerank as Text Embeddings Inference (TEI) has it."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.pooling.texts import ALL_THAT_FIT, TextReader, TokenizedText
from inflight.runtime.pooling.vectors import activated
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.pooling.other_tasks import RERANK_PATHS
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pooling import RerankBody
from inflight.triton_backend.openai.service import Service


def rerank_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    async def rerank(body: RerankBody, request: Request) -> Response:
        service.check_model(body.model)
        documents = _documents(body)
        length = len(body.query) * len(documents) + sum(map(len, documents))
        pairs = await service.tokenizing(length, lambda: _read(reader, body, documents))
        found = await pool_texts(service, request, pairs)
        if isinstance(found, Response):
            return found
        raw = [float(scores[0]) for scores in found]
        as_meant = raw if body.raw_scores else [activated(score, reader.facts) for score in raw]
        # Of equal scores the first document stays first. A raw score tells apart what two that are nearly 1 do not.
        # vLLM's clients spell out its default, 0, for all of them.
        order = sorted(range(len(raw)), key=lambda index: -raw[index])[: body.top_n or None]
        answer = _as_tei if body.texts is not None else _as_jina
        return JsonAnswer(answer(service, body, documents, pairs, as_meant, order))

    for path in RERANK_PATHS:
        router.post(path)(rerank)
    return router


def _documents(body: RerankBody) -> list[str]:
    if (body.documents is None) == (body.texts is None):
        raise ApiError(400, "Give documents, or texts as TEI calls them.", param="documents")
    listed = body.documents if body.documents is not None else body.texts or []
    if not listed:
        raise ApiError(400, "There is no document.", param="documents" if body.texts is None else "texts")
    return [each if isinstance(each, str) else each.text for each in listed]


def _read(reader: TextReader, body: RerankBody, documents: list[str]) -> list[TokenizedText]:
    truncate = body.truncate_prompt_tokens
    if truncate is None and body.truncate:
        truncate = ALL_THAT_FIT
    with blaming(_param_at_fault(body)):
        return [reader.pair(body.query, document, truncate=truncate) for document in documents]


def _param_at_fault(body: RerankBody) -> str:
    """Where a pair cannot be read: the query, if nothing could be."""
    try:
        query = body.query.encode()
    except UnicodeEncodeError:
        query = b""
    return "query" if not query else "documents" if body.texts is None else "texts"


def _as_jina(
    service: Service,
    body: RerankBody,
    documents: list[str],
    pairs: list[TokenizedText],
    scores: list[float],
    order: list[int],
) -> dict[str, Any]:
    tokens = sum(len(pair.token_ids) for pair in pairs)
    return {
        "id": f"rerank-{body.request_id or uuid.uuid4().hex}",
        "model": service.model_name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
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
    documents: list[str],
    pairs: list[TokenizedText],
    scores: list[float],
    order: list[int],
) -> list[dict[str, Any]]:
    return [
        {"index": index, "score": scores[index], **({"text": documents[index]} if body.return_text else {})}
        for index in order
    ]
