"""POST /classify, as vLLM has it: the probabilities of a classifier's labels."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import Floats, classified
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.pooling.embeddings import read_inputs
from inflight.triton_backend.openai.pooling.other_tasks import CLASSIFY_PATHS
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pooling import ClassifyBody
from inflight.triton_backend.openai.service import Service


def classify_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    async def classify(body: ClassifyBody, request: Request) -> Response:
        service.check_model(body.model)
        as_they_are = body.activated is False
        length = sum(len(each) for each in body.inputs())
        texts = await service.tokenizing(length, lambda: read_inputs(reader, body))
        found = await pool_texts(service, request, texts)
        return (
            found
            if isinstance(found, Response)
            else JsonAnswer(_answer(service, reader, body, texts, found, as_they_are))
        )

    for path in CLASSIFY_PATHS:
        router.post(path)(classify)
    return router


def _answer(
    service: Service,
    reader: TextReader,
    body: ClassifyBody,
    texts: list[TokenizedText],
    found: list[Floats],
    as_they_are: bool,
) -> dict[str, Any]:
    tokens, labels = sum(len(text.token_ids) for text in texts), reader.facts.labels
    data = []
    for index, vector in enumerate(found):
        raw = [float(each) for each in vector]
        probs = raw if as_they_are else classified(raw, reader.facts)
        # Of equal ones the first. Raw numbers tell apart what two that are nearly 1 do not.
        best = max(range(len(raw)), key=raw.__getitem__)
        data.append({"index": index, "label": labels[best], "probs": probs, "num_classes": len(probs)})
    return {
        "id": f"classify-{body.request_id or uuid.uuid4().hex}",
        "object": "list",
        "created": service.now(),
        "model": service.model_name,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
