"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.text.completion import Completion, CompletionDelta
from inflight.triton_backend.openai.answers.choice import collect
from inflight.triton_backend.openai.answers.envelope import Envelope
from inflight.triton_backend.openai.answers.logprobs import chat_logprobs, prompt_logprobs
from inflight.triton_backend.openai.protocol.chat import ChatBody
from inflight.triton_backend.openai.protocol.checks import check_chat
from inflight.triton_backend.openai.service import Generation, Service
from inflight.triton_backend.openai.streaming import Event, respond

_CHUNK = "chat.completion.chunk"


def chat_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        service.check_model(body.model)
        check_chat(body)
        generation = await service.rendering(lambda: _prepare(service, body))
        return await respond(request, _ChatAnswer(service, body, generation), body.stream)

    return router


def _prepare(service: Service, body: ChatBody) -> Generation:
    prompt = service.chat_prompt(body)
    params = service.sampling_params(
        body,
        max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )
    generation = service.generation(prompt, params, body, "messages")
    service.check_queue([generation])
    return generation


class _ChatAnswer:
    """One answer in either of its two shapes."""

    def __init__(self, service: Service, body: ChatBody, generation: Generation) -> None:
        self._service = service
        self._body = body
        self._generation = generation
        self._envelope = Envelope("chatcmpl", service, body, [generation])

    async def whole(self) -> dict[str, Any]:
        choices = await collect(self._service, self._generation, self._envelope.usage)
        shown = [self._choice(index, choice) for index, choice in enumerate(choices)]
        answer = self._envelope.whole("chat.completion", shown)
        if self._body.prompt_logprobs is not None:
            results = self._generation.prompt_logprobs or ()
            answer["prompt_logprobs"] = prompt_logprobs(self._service.tokenizer, results, self._body.prompt_logprobs)
        return answer | self._prompt_ids()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Per choice a chunk with the role, chunks of text, one with the finish reason; then the usage if wanted."""
        started: set[int] = set()
        async with aclosing(self._service.run(self._generation)) as deltas:
            async for delta in deltas:
                if delta.index not in started:
                    first = {} if started else self._prompt_ids()
                    started.add(delta.index)
                    yield self._chunk(delta.index, {"role": "assistant", "content": ""}) | first
                self._envelope.usage.completion_tokens += len(delta.token_ids)
                if delta.text or delta.logprobs or (delta.token_ids and self._body.return_token_ids):
                    yield self._chunk(delta.index, {"content": delta.text}, news=delta)
                if delta.finish_reason is not None:
                    yield self._chunk(delta.index, {}, finish=delta)
        if self._body.wants_usage:
            yield self._envelope.last_chunk(_CHUNK)

    def _prompt_ids(self) -> dict[str, Any]:
        ids = self._generation.request.prompt_token_ids
        return {"prompt_token_ids": list(ids)} if self._body.return_token_ids else {}

    def _choice(self, index: int, choice: Completion) -> dict[str, Any]:
        shown = {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        return shown | ({"token_ids": choice.token_ids} if self._body.return_token_ids else {})

    def _logprobs(self, news: Completion | CompletionDelta) -> dict[str, Any] | None:
        return chat_logprobs(news.logprobs, self._body.top_logprobs or 0) if self._body.logprobs else None

    def _chunk(
        self,
        index: int,
        content: dict[str, Any],
        news: CompletionDelta | None = None,
        finish: CompletionDelta | None = None,
    ) -> Event:
        choice: dict[str, Any] = {"index": index, "delta": content, "logprobs": None, "finish_reason": None}
        if news is not None:
            choice["logprobs"] = self._logprobs(news)
            choice |= {"token_ids": list(news.token_ids)} if self._body.return_token_ids else {}
        if finish is not None:
            choice |= {"finish_reason": finish.finish_reason, "stop_reason": finish.stop_reason}
        return self._envelope.chunk(_CHUNK, choice)
