"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from inflight.triton_backend.dialects.anthropic.answer import FRAMING, MessageAnswer
from inflight.triton_backend.dialects.anthropic.body import CountBody, MessagesBody
from inflight.triton_backend.dialects.anthropic.conversation import NAMES, chat_fields, conversation_fields
from inflight.triton_backend.dialects.asking import chat_body, in_words_of
from inflight.triton_backend.dialects.turn import Turn
from inflight.triton_backend.openai.answers.prepared import prepare_chat
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.streaming import respond


def messages_router(service: Service) -> APIRouter:
    router = APIRouter()

    def prepare(body: MessagesBody) -> MessageAnswer:
        with in_words_of(NAMES):
            chat = chat_body(chat_fields(body, service.reasoning_family is not None))
            turn = Turn(service, chat, prepare_chat(service, chat, may_shorten=True))
        return MessageAnswer(turn, body.thinking is not None and body.thinking.display == "omitted")

    def count(body: CountBody) -> int:
        with in_words_of(NAMES):
            fields = conversation_fields(body, service.reasoning_family is not None)
            return len(service.chat_prompt(chat_body(fields)))

    @router.post("/v1/messages")
    async def messages(body: MessagesBody, request: Request) -> Response:
        service.check_model(body.model)
        answer = await service.rendering(lambda: prepare(body))
        return await respond(request, answer, body.stream, FRAMING)

    @router.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountBody) -> dict[str, int]:
        service.check_model(body.model)
        return {"input_tokens": await service.rendering(lambda: count(body))}

    return router
