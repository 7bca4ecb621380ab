"""POST /api/chat and /api/generate."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from inflight.runtime.text.parsers.answer import AnswerFormat
from inflight.triton_backend.dialects.asking import chat_body, in_words_of
from inflight.triton_backend.dialects.ollama.answer import FRAMING, OllamaAnswer, timestamp
from inflight.triton_backend.dialects.ollama.body import ChatBody, GenerateBody, GenerationFields
from inflight.triton_backend.dialects.ollama.conversation import NAMES, chat_fields, generate_fields
from inflight.triton_backend.dialects.ollama.models import check_model
from inflight.triton_backend.dialects.turn import Turn
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.answers.prepared import prepare_chat
from inflight.triton_backend.openai.errors import blaming
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.streaming import respond


def generation_router(service: Service) -> APIRouter:
    router = APIRouter()

    async def answer(request: Request, body: GenerationFields, prepare: Callable[[], OllamaAnswer]) -> Response:
        return await respond(request, await service.rendering(prepare), body.stream, FRAMING)

    @router.post("/api/chat")
    async def chat(body: ChatBody, request: Request) -> Response:
        check_model(service, body)
        if not body.messages:
            return _loaded(body, {"message": {"role": "assistant", "content": ""}})
        return await answer(request, body, lambda: _chat(service, body))

    @router.post("/api/generate")
    async def generate(body: GenerateBody, request: Request) -> Response:
        check_model(service, body)
        if not body.prompt:
            return _loaded(body, {"response": ""})
        return await answer(request, body, lambda: _generate(service, body))

    return router


def _chat(service: Service, body: ChatBody) -> OllamaAnswer:
    with in_words_of(NAMES):
        chat = chat_body(chat_fields(body, service.reasoning_family is not None))
        return OllamaAnswer(Turn(service, chat, prepare_chat(service, chat, may_shorten=True)), is_chat=True)


def _generate(service: Service, body: GenerateBody) -> OllamaAnswer:
    """A model without a template reads the prompt as it is."""
    is_raw = body.raw or service.tokenizer.chat_template is None
    with in_words_of(NAMES | {"messages": "prompt"}):
        chat = chat_body(generate_fields(body, service.reasoning_family is not None))
        with blaming("prompt"):
            own = service.tokenizer.encode(body.prompt or "", True) if is_raw else service.chat_prompt(chat)
        generation = prepare_chat(service, chat, may_shorten=True, prompt=[*(body.context or ()), *own])
    if is_raw:
        generation.form, generation.reasoning = AnswerFormat(), None
    return OllamaAnswer(Turn(service, chat, generation), is_chat=False, has_context=not body.raw)


def _loaded(body: GenerationFields, said: dict[str, object]) -> Response:
    """The answer to a request that only loads the model, or unloads it; the model was there, and stays."""
    reason = "unload" if body.unloads else "load"
    stamp = {"model": body.model or body.name, "created_at": timestamp()}
    return JsonAnswer({**stamp, **said, "done": True, "done_reason": reason})
