"""SGLang's POST /generate, whose path is TGI's as well: a body with text or input_ids is SGLang's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from inflight.triton_backend.dialects.asking import in_words_of, read_body
from inflight.triton_backend.dialects.sglang.answer import SglangAnswer
from inflight.triton_backend.dialects.sglang.body import NAMES, SglangBody
from inflight.triton_backend.openai.answers.prepared import prepare_completion
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.checks import check_completion
from inflight.triton_backend.openai.protocol.completion import CompletionBody
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.streaming import respond


def is_sglangs(body: Mapping[str, Any]) -> bool:
    return "inputs" not in body and ("text" in body or "input_ids" in body)


async def generate(service: Service, given: Mapping[str, Any], request: Request) -> Response:
    """Raises ApiError (400)."""
    with in_words_of({}):
        body = read_body(SglangBody, given)

    def prepare() -> SglangAnswer:
        with in_words_of(NAMES):
            asked = read_body(CompletionBody, body.completion_fields())
            check_completion(asked)
            generations = prepare_completion(service, asked)
        if body.stream and (len(generations) > 1 or (asked.n or 1) > 1):
            raise ApiError(400, "A stream is of one prompt, and of one answer.", param="stream")
        return SglangAnswer(service, body, generations)

    texts = [body.text] if isinstance(body.text, str) else body.text or []
    prepared = await service.tokenizing(sum(map(len, texts)), prepare)
    return await respond(request, prepared, body.stream)
