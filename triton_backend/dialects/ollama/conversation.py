"""From a request for an answer to the body of a chat completion."""

from __future__ import annotations

from typing import Any

from inflight.triton_backend.dialects.ollama.body import ChatBody, GenerateBody, GenerationFields, Message
from inflight.triton_backend.openai.errors import ApiError

# OpenAI's names of what a client may have to mend, and Ollama's.
NAMES = {
    "max_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "response_format": "format",
    "reasoning_effort": "think",
}


def chat_fields(body: ChatBody, has_reasoning: bool) -> dict[str, Any]:
    """Raises ApiError (400)."""
    return _common(body, has_reasoning) | {
        "messages": [_message(each) for each in body.messages or ()],
        "tools": body.tools,
    }


def generate_fields(body: GenerateBody, has_reasoning: bool) -> dict[str, Any]:
    """Raises ApiError (400)."""
    messages = [{"role": "system", "content": body.system}] if body.system else []
    messages.append({"role": "user", "content": body.prompt or ""})
    return _common(body, has_reasoning) | {"messages": messages}


def _common(body: GenerationFields, has_reasoning: bool) -> dict[str, Any]:
    """`has_reasoning`: the model marks its reasoning."""
    fields: dict[str, Any] = {
        "model": body.model,
        "stream": body.stream,
        "response_format": _response_format(body.format),
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs if body.logprobs else None,
        **body.options.chat_fields(),
    }
    if body.think is None:
        return fields
    if body.think and not has_reasoning:
        raise ApiError(400, "This model does not support thinking: it marks no reasoning. Leave think out.")
    if isinstance(body.think, str):
        return fields | {"reasoning_effort": body.think}
    return fields | {"chat_template_kwargs": {"enable_thinking": body.think}, "include_reasoning": body.think}


def _response_format(wanted: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if not wanted:
        return None
    if isinstance(wanted, dict):
        return {"type": "json_schema", "json_schema": {"schema": wanted}}
    return {"type": "json_object"}


def _message(message: Message) -> dict[str, Any]:
    calls = [
        {"id": each.id, "function": {"name": each.function.name, "arguments": each.function.arguments or {}}}
        for each in message.tool_calls or ()
    ]
    return {
        "role": message.role,
        "content": message.content or "",
        "reasoning_content": message.thinking,
        "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
        "tool_calls": calls or None,
    }
