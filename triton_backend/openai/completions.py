"""POST /v1/completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.text.completion import Completion, CompletionDelta
from inflight.triton_backend.openai.choice import Usage, collect
from inflight.triton_backend.openai.echo import Echo
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.logprobs import completion_logprobs, spell
from inflight.triton_backend.openai.merge import gather, merge
from inflight.triton_backend.openai.protocol import CompletionBody
from inflight.triton_backend.openai.service import Generation, Service
from inflight.triton_backend.openai.streaming import Event, respond


def completions_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        service.check_model(body.model)
        length = sum(len(prompt) for prompt in body.prompts() if isinstance(prompt, str))
        generations = await service.tokenizing(length, lambda: _prepare(service, body))
        return await respond(request, _CompletionAnswer(service, body, generations), body.stream)

    return router


def _prepare(service: Service, body: CompletionBody) -> list[Generation]:
    """A generation per prompt."""
    if body.stream and (body.best_of or 1) > (body.n or 1):
        raise ApiError(400, "best_of above n cannot be streamed: the best is known at the end.", param="best_of")
    params = service.sampling_params(
        body,
        max_tokens=body.max_tokens,
        best_of=body.best_of,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    encode = service.tokenizer.encode
    prompts = [encode(p, body.add_special_tokens) if isinstance(p, str) else p for p in body.prompts()]
    if not prompts:
        raise ApiError(400, "There is no prompt.", param="prompt")
    return [service.generation(prompt, params, body.priority, "prompt") for prompt in prompts]


class _CompletionAnswer:
    """One answer in either of its two shapes. The choices of prompt p have the indices p * n and up."""

    def __init__(self, service: Service, body: CompletionBody, generations: list[Generation]) -> None:
        self._service = service
        self._body = body
        self._generations = generations
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._n = generations[0].request.params.n
        self._echoes = [
            Echo(service.tokenizer, each, prompt) for each, prompt in zip(generations, body.prompts(), strict=True)
        ]

    async def whole(self) -> dict[str, Any]:
        usage = Usage()
        collected = await gather([collect(self._service, each, usage) for each in self._generations])
        choices = [
            self._choice(prompt * self._n + index, self._echoes[prompt], choice)
            for prompt, found in enumerate(collected)
            for index, choice in enumerate(found)
        ]
        return {**self._envelope(), "choices": choices, "usage": usage.as_dict()}

    async def events(self) -> AsyncGenerator[Event, None]:
        usage = Usage(prompt_tokens=sum(len(each.request.prompt_token_ids) for each in self._generations))
        echoed: set[int] = set()
        async with aclosing(merge([self._service.run(each) for each in self._generations])) as merged:
            async for prompt, delta in merged:
                usage.completion_tokens += len(delta.token_ids)
                index = prompt * self._n + delta.index
                if self._body.echo and index not in echoed:
                    echoed.add(index)
                    yield self._echo_chunk(index, self._echoes[prompt])
                if delta.text or delta.logprobs or delta.finish_reason is not None:
                    yield self._delta_chunk(index, self._echoes[prompt], delta)
        if self._wants_usage:
            yield {**self._envelope(), "choices": [], "usage": usage.as_dict()}

    @property
    def _wants_usage(self) -> bool:
        return self._body.stream_options is not None and self._body.stream_options.include_usage

    def _envelope(self) -> dict[str, Any]:
        service = self._service
        return {"id": self._id, "object": "text_completion", "created": service.now(), "model": service.model_name}

    def _choice(self, index: int, echo: Echo, choice: Completion) -> dict[str, Any]:
        echoed = self._body.echo
        logprobs = None
        if self._body.logprobs is not None:
            before = echo.logprobs() if echoed else ([], [])
            logprobs = completion_logprobs(
                [*before[0], *choice.logprobs],
                [*before[1], *spell(choice.logprobs)],
                [*(echo.offsets() if echoed else []), *self._offsets(echo, choice.logprobs)],
            )
        return {
            "index": index,
            "text": echo.text + choice.text if echoed else choice.text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def _offsets(self, echo: Echo, entries: Any) -> list[int]:
        start = len(echo.text) if self._body.echo else 0
        return [start + entry.text_offset for entry in entries]

    def _echo_chunk(self, index: int, echo: Echo) -> Event:
        logprobs = completion_logprobs(*echo.logprobs(), echo.offsets()) if self._body.logprobs is not None else None
        return self._chunk({"index": index, "text": echo.text, "logprobs": logprobs, "finish_reason": None})

    def _delta_chunk(self, index: int, echo: Echo, delta: CompletionDelta) -> Event:
        logprobs = None
        if self._body.logprobs is not None:
            offsets = self._offsets(echo, delta.logprobs)
            logprobs = completion_logprobs(delta.logprobs, spell(delta.logprobs), offsets)
        choice = {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        return self._chunk({**choice, "stop_reason": delta.stop_reason})

    def _chunk(self, choice: dict[str, Any]) -> Event:
        usage: dict[str, Any] = {"usage": None} if self._wants_usage else {}
        return {**self._envelope(), "choices": [choice], **usage}
