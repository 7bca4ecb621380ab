"""From items to the body of a chat completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inflight.triton_backend.dialects.responses.body import ResponsesBody, Tool, ToolChoice
from inflight.triton_backend.dialects.responses.items import Item, shown_text
from inflight.triton_backend.openai.errors import ApiError

# Chat completions' names of what a client may have to mend, and those of responses.
NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "tool_choice.function": "tool_choice",
    "messages": "input",
}

_AS_THEY_ARE = [
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stream",
    "chat_template_kwargs",
    "thinking_token_budget",
    "parallel_tool_calls",
    "metadata",
]


def chat_fields(body: ResponsesBody, items: Sequence[Item]) -> dict[str, Any]:
    """`items`: those of earlier responses and of this one's input. Raises ApiError (400)."""
    instructions = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    messages = [*instructions, *messages_of(items)]
    if not messages:
        raise ApiError(400, "There is no input.", param="input")
    reasoning, tools = body.reasoning, body.tools
    return {
        **{name: getattr(body, name) for name in _AS_THEY_ARE},
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens,
        "tools": None if tools is None else [_tool(each) for each in tools],
        "tool_choice": _tool_choice(body.tool_choice),
        "response_format": _response_format(body),
        "verbosity": body.text.verbosity,
        "reasoning_effort": None if reasoning is None else reasoning.effort,
        "logprobs": body.wants_logprobs,
        "top_logprobs": body.top_logprobs,
    }


def messages_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Reasoning, text and calls of one answer are one message of the assistant."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if item.type == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": shown_text(item.output)})
        elif item.type == "reasoning":
            text = shown_text(item.content) or shown_text(item.summary)
            messages.append({"role": "assistant", "content": "", "reasoning_content": text})
        elif item.type == "function_call":
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            _open_answer(messages).setdefault("tool_calls", []).append(call)
        elif item.role == "assistant" and messages and _is_reasoning_alone(messages[-1]):
            messages[-1]["content"] = shown_text(item.content)
        else:
            messages.append({"role": item.role, "content": _content(item)})
    return messages


def _open_answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer that is being put together, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _is_reasoning_alone(message: dict[str, Any]) -> bool:
    return "reasoning_content" in message and not message["content"] and "tool_calls" not in message


def _content(item: Item) -> str | list[dict[str, Any]]:
    if isinstance(item.content, list) and len(item.content) > 1 and item.role != "assistant":
        return [{"type": "text", "text": part.shown} for part in item.content]
    return shown_text(item.content)


def _tool(tool: Tool) -> dict[str, Any]:
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: getattr(tool, name) for name in names}}


def _tool_choice(choice: str | ToolChoice | None) -> Any:
    if choice is None or isinstance(choice, str):
        return choice
    if choice.type == "function":
        return {"type": "function", "function": {"name": choice.name or ""}}
    tools = [{"type": "function", "function": {"name": each.name}} for each in choice.tools or ()]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}


def _response_format(body: ResponsesBody) -> dict[str, Any] | None:
    asked = body.text.format
    if asked.type != "json_schema":
        return {"type": asked.type}
    if asked.schema_ is None:
        raise ApiError(400, "Missing required parameter: 'text.format.schema'.", param="text.format.schema")
    return {"type": "json_schema", "json_schema": {"name": asked.name, "schema": asked.schema_}}
