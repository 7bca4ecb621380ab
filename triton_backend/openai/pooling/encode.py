"""POST /pooling, as vLLM has it: vectors or classes of texts, and of their single tokens, as LLM.encode gives them."""

from __future__ import annotations

import base64
import uuid
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.pooling.asked import Numbers, as_asked
from inflight.runtime.pooling.params import TOKEN_EMBED, PoolingParams
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import blaming
from inflight.triton_backend.openai.pooling.embeddings import check_dimensions, read_inputs
from inflight.triton_backend.openai.pooling.other_tasks import POOLING_PATHS
from inflight.triton_backend.openai.pooling.run import pool_texts
from inflight.triton_backend.openai.protocol.pooling import PoolingBody
from inflight.triton_backend.openai.service import Service


def pooling_router(service: Service) -> APIRouter:
    router = APIRouter()
    reader = TextReader(service.manifest, service.tokenizer)

    async def pooling(body: PoolingBody, request: Request) -> Response:
        service.check_model(body.model)
        params = _params(reader, body)
        length = sum(len(each) for each in body.inputs())
        texts = await service.tokenizing(length, lambda: read_inputs(reader, body))
        if params.task == TOKEN_EMBED:
            texts = [replace(text, each_token=True) for text in texts]
        found = await pool_texts(service, request, texts)
        if isinstance(found, Response):
            return found

        def answer() -> Response:
            made = [as_asked(each, params, reader.facts) for each in found]
            return JsonAnswer(_answer(service, body, texts, made))

        return await service.tokenizing(sum(each.size for each in found), answer)

    for path in POOLING_PATHS:
        router.post(path)(pooling)
    return router


def _params(reader: TextReader, body: PoolingBody) -> PoolingParams:
    """What is asked for. Raises ApiError (400) for what this engine does not make."""
    with blaming("task"):
        asked = PoolingParams(task=body.task)
        asked.check(reader.facts.task, each_token=True)
        if asked.task == TOKEN_EMBED:
            reader.check_each_token()
    with blaming("dimensions"):
        asked = replace(asked, dimensions=body.dimensions)
        asked.check(reader.facts.task, each_token=True)
    with blaming("use_activation"):
        asked = replace(asked, use_activation=body.activated)
        asked.check(reader.facts.task, each_token=True)
    check_dimensions(body, reader.facts.vector_size)
    return asked


def _answer(service: Service, body: PoolingBody, texts: list[TokenizedText], made: list[Numbers]) -> dict[str, Any]:
    tokens = sum(len(text.token_ids) for text in texts)
    return {
        "id": f"pooling-{body.request_id or uuid.uuid4().hex}",
        "object": "list",
        "created": service.now(),
        "model": service.model_name,
        "data": [
            {"index": index, "object": "pooling", "data": _encoded(each, body.encoding_format)}
            for index, each in enumerate(made)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(numbers: Numbers, encoding: str) -> Any:
    """Numbers, those of each token in a list; or the bytes of float32 in little-endian order, one token behind the
    other."""
    return numbers.tolist() if encoding == "float" else base64.b64encode(numbers.astype("<f4").tobytes()).decode()
