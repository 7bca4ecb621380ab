"""POST /v1/chat/completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.text.completion import Completion, CompletionDelta
from inflight.triton_backend.openai.choice import Usage, collect
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.logprobs import chat_logprobs
from inflight.triton_backend.openai.protocol import ChatBody
from inflight.triton_backend.openai.service import Generation, Service
from inflight.triton_backend.openai.streaming import Event, respond


def chat_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        service.check_model(body.model)
        length = sum(len(str(message.as_dict()["content"])) for message in body.messages)
        generation = await service.tokenizing(length, lambda: _prepare(service, body))
        return await respond(request, _ChatAnswer(service, body, generation), body.stream)

    return router


def _prepare(service: Service, body: ChatBody) -> Generation:
    prompt = service.tokenizer.encode_chat(
        [message.as_dict() for message in body.messages],
        **{"add_generation_prompt": body.add_generation_prompt, **(body.chat_template_kwargs or {})},
    )
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
    params = service.sampling_params(
        body,
        max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    return service.generation(prompt, params, body.priority, "messages")


class _ChatAnswer:
    """One answer in either of its two shapes."""

    def __init__(self, service: Service, body: ChatBody, generation: Generation) -> None:
        self._service = service
        self._body = body
        self._generation = generation
        self._id = f"chatcmpl-{uuid.uuid4().hex}"

    async def whole(self) -> dict[str, Any]:
        usage = Usage()
        choices = await collect(self._service, self._generation, usage)
        shown = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._envelope("chat.completion"), "choices": shown, "usage": usage.as_dict()}

    async def events(self) -> AsyncGenerator[Event, None]:
        """Per choice a chunk with the role, chunks of text, one with the finish reason; then the usage if wanted."""
        usage = Usage(prompt_tokens=len(self._generation.request.prompt_token_ids))
        started: set[int] = set()
        async with aclosing(self._service.run(self._generation)) as deltas:
            async for delta in deltas:
                usage.completion_tokens += len(delta.token_ids)
                if delta.index not in started:
                    started.add(delta.index)
                    yield self._chunk(delta.index, {"role": "assistant", "content": ""})
                if delta.text or delta.logprobs:
                    yield self._chunk(delta.index, {"content": delta.text}, self._logprobs(delta))
                if delta.finish_reason is not None:
                    yield self._chunk(delta.index, {}, finish=delta)
        if self._wants_usage:
            yield {**self._envelope("chat.completion.chunk"), "choices": [], "usage": usage.as_dict()}

    @property
    def _wants_usage(self) -> bool:
        return self._body.stream_options is not None and self._body.stream_options.include_usage

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._service.now(), "model": self._service.model_name}

    def _choice(self, index: int, choice: Completion) -> dict[str, Any]:
        num_top = self._body.top_logprobs or 0
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": chat_logprobs(choice.logprobs, num_top) if self._body.logprobs else None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def _logprobs(self, delta: CompletionDelta) -> dict[str, Any] | None:
        return chat_logprobs(delta.logprobs, self._body.top_logprobs or 0) if self._body.logprobs else None

    def _chunk(
        self,
        index: int,
        content: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish: CompletionDelta | None = None,
    ) -> Event:
        choice: dict[str, Any] = {"index": index, "delta": content, "logprobs": logprobs, "finish_reason": None}
        if finish is not None:
            choice |= {"finish_reason": finish.finish_reason, "stop_reason": finish.stop_reason}
        usage: dict[str, Any] = {"usage": None} if self._wants_usage else {}
        return {**self._envelope("chat.completion.chunk"), "choices": [choice], **usage}
