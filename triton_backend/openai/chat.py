"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from inflight.runtime.text.completion import Completion, CompletionDelta
from inflight.runtime.text.parsers.answer import AnswerParts
from inflight.runtime.text.parsers.parts import Part, Reasoning
from inflight.triton_backend.openai.answers.choice import collect
from inflight.triton_backend.openai.answers.envelope import Envelope
from inflight.triton_backend.openai.answers.logprobs import chat_logprobs, prompt_logprobs
from inflight.triton_backend.openai.answers.message import HeldReasoning, chat_deltas, chat_message
from inflight.triton_backend.openai.answers.prepared import prepare_chat
from inflight.triton_backend.openai.protocol.chat import ChatBody
from inflight.triton_backend.openai.protocol.checks import check_chat
from inflight.triton_backend.openai.protocol.tools import read_tools
from inflight.triton_backend.openai.service import Generation, Service
from inflight.triton_backend.openai.streaming import Event, respond

_CHUNK = "chat.completion.chunk"


def chat_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        service.check_model(body.model)
        check_chat(body)
        generation = await service.rendering(lambda: prepare_chat(service, body))
        return await respond(request, _ChatAnswer(service, body, generation), body.stream)

    return router


class _ChatAnswer:
    """One answer in either of its two shapes."""

    def __init__(self, service: Service, body: ChatBody, generation: Generation) -> None:
        self._service = service
        self._body = body
        self._generation = generation
        self._envelope = Envelope("chatcmpl", service, body, [generation])
        # OpenAI's answers of one function that the client chose end as others do.
        use = read_tools(body)
        is_told_apart = body.separate_reasoning and generation.reasoning is not None
        self._shows_reasoning = body.include_reasoning and is_told_apart
        self._notes_calls = use is not None and not use.is_named

    def _parts(self) -> AnswerParts:
        skips = self._generation.request.params.skip_special_tokens
        return AnswerParts(self._generation.form, self._service.tokenizer, skips)

    def _shown(self, parts: Iterable[Part]) -> list[Part]:
        return [part for part in parts if self._body.include_reasoning or not isinstance(part, Reasoning)]

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
        started: dict[int, AnswerParts] = {}
        held = HeldReasoning(not self._body.stream_reasoning)
        async with aclosing(self._service.run(self._generation)) as deltas:
            async for delta in deltas:
                if delta.index not in started:
                    first = {} if started else self._prompt_ids()
                    started[delta.index] = self._parts()
                    yield self._chunk(delta.index, {"role": "assistant", "content": ""}) | first
                self._envelope.usage.completion_tokens += len(delta.token_ids)
                parts = started[delta.index]
                pushed = held.push(delta.index, self._shown(parts.push(delta)), delta.finish_reason is not None)
                shown = chat_deltas(pushed)
                if not shown and (delta.logprobs or (delta.token_ids and self._body.return_token_ids)):
                    shown = [{"content": ""}]
                for number, each in enumerate(shown):
                    yield self._chunk(delta.index, each, news=None if number else delta)
                if delta.finish_reason is not None:
                    # Empty, not missing: TGI's and vLLM's clients add the content of every chunk.
                    yield self._chunk(delta.index, {"content": ""}, finish=delta, num_calls=parts.num_calls)
        if self._body.wants_usage:
            yield self._envelope.last_chunk(_CHUNK)

    def _prompt_ids(self) -> dict[str, Any]:
        ids = self._generation.request.prompt_token_ids
        return {"prompt_token_ids": list(ids)} if self._body.return_token_ids else {}

    def _choice(self, index: int, choice: Completion) -> dict[str, Any]:
        parts = self._parts()
        shown = {
            "index": index,
            "message": chat_message(self._shown(parts.push(choice)), self._shows_reasoning),
            "logprobs": self._logprobs(choice),
            "finish_reason": self._finish_reason(choice, parts.num_calls),
            "stop_reason": choice.stop_reason,
        }
        return shown | ({"token_ids": choice.token_ids} if self._body.return_token_ids else {})

    def _finish_reason(self, news: Completion | CompletionDelta, num_calls: int) -> str | None:
        ended_by_calls = news.finish_reason == "stop" and num_calls > 0 and self._notes_calls
        return "tool_calls" if ended_by_calls else news.finish_reason

    def _logprobs(self, news: Completion | CompletionDelta) -> dict[str, Any] | None:
        return chat_logprobs(news.logprobs, self._body.top_logprobs or 0) if self._body.logprobs else None

    def _chunk(
        self,
        index: int,
        content: dict[str, Any],
        news: CompletionDelta | None = None,
        finish: CompletionDelta | None = None,
        num_calls: int = 0,
    ) -> Event:
        if self._shows_reasoning and "reasoning_content" not in content:
            # Clients of DeepSeek's and SGLang's read it in every chunk.
            content = {**content, "reasoning_content": None}
        choice: dict[str, Any] = {"index": index, "delta": content, "logprobs": None, "finish_reason": None}
        if news is not None:
            choice["logprobs"] = self._logprobs(news)
            choice |= {"token_ids": list(news.token_ids)} if self._body.return_token_ids else {}
        if finish is not None:
            reason = self._finish_reason(finish, num_calls)
            choice |= {"finish_reason": reason, "stop_reason": finish.stop_reason}
        return self._envelope.chunk(_CHUNK, choice)
