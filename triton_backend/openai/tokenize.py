"""POST /tokenize and /detokenize and GET /tokenizer_info, as vLLM has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.protocol.checks import check_conversation
from inflight.triton_backend.openai.protocol.tokenize import DetokenizeBody, TokenizeBody
from inflight.triton_backend.openai.service import Service


def tokenize_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        service.check_model(body.model)
        chat = body.conversation()
        if (body.prompt is None) == (chat is None):
            raise ApiError(400, "Give either prompt or messages.", param="prompt")
        if chat is not None:
            check_conversation(chat)
            ids = await service.rendering(lambda: service.chat_prompt(chat))
        else:
            ids = await service.tokenizing(len(body.prompt or ""), lambda: _encode(service, body))
        pieces = [service.tokenizer.piece(token) or "" for token in ids]
        limit = service.manifest.limits.max_seq_len
        return {
            "count": len(ids),
            "max_model_len": limit,
            "tokens": ids,
            "token_strs": pieces if body.return_token_strs else None,
        }

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        service.check_model(body.model)
        vocab_size = service.manifest.model.vocab_size
        wrong = next((token for token in body.tokens if not 0 <= token < vocab_size), None)
        if wrong is not None:
            message = f"tokens has the token id {wrong}; the ids are 0 to {vocab_size - 1}."
            raise ApiError(400, message, param="tokens")
        return {"prompt": service.tokenizer.decode(body.tokens, skip_special_tokens=False)}

    @router.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        return _tokenizer_info(service)

    return router


def _tokenizer_info(service: Service) -> dict[str, Any]:
    """What a client needs that tokenizes and renders through this server: the named special tokens, null where there is
    none, and the chat template."""
    tokenizer = service.tokenizer
    template = tokenizer.chat_template
    return {
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token")),
        **tokenizer.special_tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": service.manifest.limits.max_seq_len,
        "chat_template": None if template is None else template.default_source,
    }


def _encode(service: Service, body: TokenizeBody) -> list[int]:
    add_special_tokens = True if body.add_special_tokens is None else body.add_special_tokens
    with blaming("prompt"):
        return service.tokenizer.encode(body.prompt or "", add_special_tokens)
