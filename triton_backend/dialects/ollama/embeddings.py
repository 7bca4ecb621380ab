"""POST /api/embed and /api/embeddings."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from inflight.runtime.pooling.texts import ALL_THAT_FIT, TextReader
from inflight.runtime.pooling.vectors import Floats, shortened
from inflight.triton_backend.dialects.asking import Names, in_words_of, read_body
from inflight.triton_backend.dialects.ollama.body import EmbedBody, EmbeddingsBody
from inflight.triton_backend.dialects.ollama.models import check_model
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.pooling.embeddings import check_dimensions, read_inputs
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pooling import EmbeddingBody
from inflight.triton_backend.openai.service import Service

_NAMES: Names = {"truncate_prompt_tokens": "truncate"}


def embed_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    async def vectors(request: Request, body: EmbedBody) -> tuple[list[Floats], int] | Response:
        """The vectors and the tokens they were made of."""
        with in_words_of(_NAMES):
            truncate = ALL_THAT_FIT if body.truncate else None
            asked = read_body(
                EmbeddingBody, {"input": body.input, "truncate_prompt_tokens": truncate, "dimensions": body.dimensions}
            )
            check_dimensions(asked, reader.facts.vector_size)
            length = sum(map(len, asked.inputs()))
            texts = await service.tokenizing(length, lambda: read_inputs(reader, asked))
        found = await pool_texts(service, request, texts)
        return found if isinstance(found, Response) else (found, sum(len(text.token_ids) for text in texts))

    @router.post("/api/embed")
    async def embed(body: EmbedBody, request: Request) -> Response:
        check_model(service, body)
        started = time.monotonic_ns()
        if body.input == []:
            return JsonAnswer({"model": body.model, "embeddings": []})
        found = await vectors(request, body)
        if isinstance(found, Response):
            return found
        made, tokens = found
        if body.dimensions is not None:
            made = [shortened(vector, body.dimensions, reader.facts) for vector in made]
        return JsonAnswer(
            {
                "model": body.model,
                "embeddings": [_of_length_1(vector) for vector in made],
                "total_duration": time.monotonic_ns() - started,
                "load_duration": 0,
                "prompt_eval_count": tokens,
            }
        )

    @router.post("/api/embeddings")
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        check_model(service, body)
        fields: dict[str, Any] = {"model": body.model, "input": body.prompt}
        found = await vectors(request, EmbedBody(**fields))
        return found if isinstance(found, Response) else JsonAnswer({"embedding": found[0][0].tolist()})

    return router


def _of_length_1(vector: Floats) -> list[float]:
    """As Ollama's are, whatever the model's modules say."""
    length = float(np.linalg.norm(vector))
    numbers: list[float] = (vector / length if length else vector).tolist()
    return numbers
