"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.text.completion import Completion, CompletionDelta
from inflight.triton_backend.openai.answers.choice import collect
from inflight.triton_backend.openai.answers.echo import Echo
from inflight.triton_backend.openai.answers.envelope import Envelope
from inflight.triton_backend.openai.answers.logprobs import completion_logprobs, prompt_logprobs, spell
from inflight.triton_backend.openai.answers.merge import gather, merge
from inflight.triton_backend.openai.answers.prepared import prepare_completion
from inflight.triton_backend.openai.protocol.checks import check_completion
from inflight.triton_backend.openai.protocol.completion import CompletionBody
from inflight.triton_backend.openai.service import Generation, Service
from inflight.triton_backend.openai.streaming import Event, respond

_OBJECT = "text_completion"


def completions_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        service.check_model(body.model)
        check_completion(body)
        length = sum(len(prompt) for prompt in body.prompts() if isinstance(prompt, str))
        generations = await service.tokenizing(length, lambda: prepare_completion(service, body))
        return await respond(request, _CompletionAnswer(service, body, generations), body.stream)

    return router


class _CompletionAnswer:
    """One answer in either of its two shapes. The choices of prompt p have the indices p * n and up."""

    def __init__(self, service: Service, body: CompletionBody, generations: list[Generation]) -> None:
        self._service = service
        self._body = body
        self._generations = generations
        self._envelope = Envelope("cmpl", service, body, generations)
        self._n = generations[0].request.params.n
        self._echoes = [
            Echo(service.tokenizer, each, prompt, body.logprobs)
            for each, prompt in zip(generations, body.prompts(), strict=True)
        ]

    async def whole(self) -> dict[str, Any]:
        usage = self._envelope.usage
        collected = await gather([collect(self._service, each, usage) for each in self._generations])
        choices = [
            self._choice(prompt * self._n + index, prompt, choice)
            for prompt, found in enumerate(collected)
            for index, choice in enumerate(found)
        ]
        return self._envelope.whole(_OBJECT, choices)

    async def events(self) -> AsyncGenerator[Event, None]:
        started: set[int] = set()
        async with aclosing(merge([self._service.run(each) for each in self._generations])) as merged:
            async for prompt, delta in merged:
                self._envelope.usage.completion_tokens += len(delta.token_ids)
                index = prompt * self._n + delta.index
                first = {} if index in started else self._prompt_ids(prompt)
                if self._body.echo and index not in started:
                    yield self._echo_chunk(index, self._echoes[prompt], first)
                    first = {}
                started.add(index)
                if delta.text or delta.logprobs or delta.finish_reason is not None or self._ids(delta):
                    yield self._delta_chunk(index, self._echoes[prompt], delta, first)
        if self._body.wants_usage:
            yield self._envelope.last_chunk(_OBJECT)

    def _prompt_ids(self, prompt: int) -> dict[str, Any]:
        ids = self._generations[prompt].request.prompt_token_ids
        return {"prompt_token_ids": list(ids)} if self._body.return_token_ids else {}

    def _ids(self, news: Completion | CompletionDelta) -> dict[str, Any]:
        """The ids of the new tokens, where they are wanted."""
        return {"token_ids": list(news.token_ids)} if self._body.return_token_ids and news.token_ids else {}

    def _choice(self, index: int, prompt: int, choice: Completion) -> dict[str, Any]:
        echoed, echo = self._body.echo, self._echoes[prompt]
        logprobs = None
        if self._body.logprobs is not None:
            before = echo.logprobs() if echoed else ([], [])
            logprobs = completion_logprobs(
                [*before[0], *choice.logprobs],
                [*before[1], *spell(choice.logprobs)],
                [*(echo.offsets() if echoed else []), *self._offsets(echo, choice.logprobs)],
            )
        shown = {
            "index": index,
            "text": echo.text + choice.text if echoed else choice.text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self._body.return_token_ids:
            shown |= {"token_ids": choice.token_ids} | self._prompt_ids(prompt)
        if self._body.prompt_logprobs is not None:
            results = self._generations[prompt].prompt_logprobs or ()
            shown["prompt_logprobs"] = prompt_logprobs(self._service.tokenizer, results, self._body.prompt_logprobs)
        return shown

    def _offsets(self, echo: Echo, entries: Any) -> list[int]:
        start = len(echo.text) if self._body.echo else 0
        return [start + entry.text_offset for entry in entries]

    def _echo_chunk(self, index: int, echo: Echo, first: dict[str, Any]) -> Event:
        logprobs = completion_logprobs(*echo.logprobs(), echo.offsets()) if self._body.logprobs is not None else None
        choice = {"index": index, "text": echo.text, "logprobs": logprobs, "finish_reason": None}
        return self._envelope.chunk(_OBJECT, choice | first)

    def _delta_chunk(self, index: int, echo: Echo, delta: CompletionDelta, first: dict[str, Any]) -> Event:
        logprobs = None
        if self._body.logprobs is not None:
            offsets = self._offsets(echo, delta.logprobs)
            logprobs = completion_logprobs(delta.logprobs, spell(delta.logprobs), offsets)
        choice = {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        return self._envelope.chunk(_OBJECT, {**choice, "stop_reason": delta.stop_reason, **self._ids(delta), **first})
