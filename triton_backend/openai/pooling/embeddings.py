"""POST /v1/embeddings."""

from __future__ import annotations

import base64
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.errors import placed
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import Floats, shortened
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pooling import ClassifyBody, EmbeddingBody, PoolingBody
from inflight.triton_backend.openai.service import Service


def embeddings_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        service.check_model(body.model)
        check_dimensions(body, reader.facts.vector_size)
        length = sum(len(each) for each in body.inputs())
        texts = await service.tokenizing(length, lambda: read_inputs(reader, body))
        vectors = await pool_texts(service, request, texts)
        if isinstance(vectors, Response):
            return vectors
        return await service.tokenizing(
            sum(map(len, vectors)), lambda: JsonAnswer(_answer(service, reader, body, texts, vectors))
        )

    return router


def check_dimensions(body: EmbeddingBody | PoolingBody, size: int) -> None:
    """Raises ApiError (400) for vectors longer than the model's, which are of `size` numbers."""
    if body.dimensions is not None and body.dimensions > size:
        message = f"dimensions is {body.dimensions}; the vectors of this model have {size} numbers."
        raise ApiError(400, message, param="dimensions")


def read_inputs(reader: TextReader, body: EmbeddingBody | ClassifyBody | PoolingBody) -> list[TokenizedText]:
    """The tokens of every input. Raises ApiError (400)."""
    inputs = body.inputs()
    if not inputs:
        raise ApiError(400, "There is no input.", param="input")
    with blaming("prompt_name"):
        prompt = reader.prompt(body.prompt_name if isinstance(body, EmbeddingBody) else None)
    truncate = body.truncate_prompt_tokens
    with blaming("truncate_prompt_tokens"):
        reader.check_truncation(truncate)
    texts = []
    for index, each in enumerate(inputs):
        param = f"input.{index}" if body.is_listed() else "input"
        with blaming(param), placed(f"'{param}'" if body.is_listed() else None):
            if isinstance(each, list):
                texts.append(reader.ids(each, truncate=truncate))
            else:
                special = body.add_special_tokens
                texts.append(reader.text(each, truncate=truncate, prompt=prompt, add_special_tokens=special))
    return texts


def _answer(
    service: Service, reader: TextReader, body: EmbeddingBody, texts: list[TokenizedText], vectors: list[Floats]
) -> dict[str, Any]:
    tokens = sum(len(text.token_ids) for text in texts)
    if body.dimensions is not None:
        vectors = [shortened(vector, body.dimensions, reader.facts) for vector in vectors]
    return {
        "object": "list",
        "created": int(time.time()),
        "model": service.model_name,
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(vector: Floats, encoding: str) -> list[float] | str:
    """Numbers, or the bytes of float32 in little-endian order."""
    if encoding == "float":
        numbers: list[float] = vector.tolist()
        return numbers
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
