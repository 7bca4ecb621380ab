"""From a Messages request to the body of a chat completion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inflight.triton_backend.dialects.anthropic.blocks import Block, content_of, text_of
from inflight.triton_backend.dialects.anthropic.body import CountBody, Message, MessagesBody, OutputFormat, ToolBody
from inflight.triton_backend.openai.errors import ApiError

# OpenAI's names of what a client may have to mend, and Anthropic's.
NAMES = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "thinking_token_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
    "tool_choice.function.name": "tool_choice.name",
    "parameters": "input_schema",
}

_OF_USERS = ("text", "document", "tool_result")
_OF_ASSISTANTS = ("text", "thinking", "redacted_thinking", "tool_use")


def conversation_fields(body: CountBody, has_reasoning: bool) -> dict[str, Any]:
    """What makes the prompt. `has_reasoning`: the model marks its reasoning; another one thinks less than any budget.

    Raises ApiError (400).
    """
    messages = [{"role": "system", "content": text_of(body.system)}] if body.system else []
    for index, message in enumerate(body.messages):
        messages += _messages(index, message)
    is_begun = body.messages[-1].role == "assistant"
    if is_begun and messages[-1].get("tool_calls"):
        where = f"messages.{len(body.messages) - 1}"
        raise ApiError(400, f"{where}: the tool_use blocks have no tool_result blocks after them.", param=where)
    thinking, config = body.thinking, body.output_config
    fields: dict[str, Any] = {
        "messages": messages,
        "continue_final_message": is_begun,
        "reasoning_effort": None if config is None else config.effort,
        "include_reasoning": thinking is not None and thinking.type != "disabled",
        **_tools(body),
        "response_format": _response_format(body),
    }
    if thinking is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": thinking.type != "disabled"}
        if thinking.type == "enabled" and has_reasoning:
            fields["thinking_token_budget"] = thinking.budget_tokens
    return fields


def chat_fields(body: MessagesBody, has_reasoning: bool) -> dict[str, Any]:
    """All of it. Raises ApiError (400)."""
    return {
        **conversation_fields(body, has_reasoning),
        "model": body.model,
        "max_tokens": body.max_tokens,
        "stream": body.stream,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": body.stop_sequences,
    }


def _messages(index: int, message: Message) -> Iterator[dict[str, Any]]:
    """The messages that one message becomes: results of tools are some of their own, before the text beside them."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    blocks = message.content
    _check_kinds(index, message.role, blocks)
    if message.role == "assistant":
        yield _assistant(blocks)
        return
    for block in blocks:
        if block.type == "tool_result":
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text_of(block.content)}
    texts = [block for block in blocks if block.type != "tool_result"]
    if texts or not blocks:
        yield {"role": message.role, "content": content_of(texts)}


def _check_kinds(index: int, role: str, blocks: list[Block]) -> None:
    allowed = _OF_ASSISTANTS if role == "assistant" else _OF_USERS
    for number, block in enumerate(blocks):
        if block.type not in allowed:
            where = f"messages.{index}.content.{number}.type"
            raise ApiError(400, f"'{where}': a message of the role '{role}' has no '{block.type}'.", param=where)


def _assistant(blocks: list[Block]) -> dict[str, Any]:
    calls = [
        {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
        for block in blocks
        if block.type == "tool_use"
    ]
    text = "".join(block.shown for block in blocks if block.type == "text")
    thinking = "".join(block.thinking or "" for block in blocks)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["reasoning_content"] = thinking
    return message | ({"tool_calls": calls} if calls else {})


def _tools(body: CountBody) -> dict[str, Any]:
    choice = body.tool_choice
    fields: dict[str, Any] = {"tools": None if body.tools is None else [_tool(each) for each in body.tools]}
    if choice is None:
        return fields
    if choice.type == "tool":
        if choice.name is None:
            raise ApiError(400, "Missing required parameter: 'tool_choice.name'.", param="tool_choice.name")
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = {"any": "required"}.get(choice.type, choice.type)
    return fields | {"parallel_tool_calls": not choice.disable_parallel_tool_use}


def _tool(tool: ToolBody) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _response_format(body: CountBody) -> dict[str, Any] | None:
    asked: OutputFormat | None = None if body.output_config is None else body.output_config.format
    asked = asked or body.output_format
    return None if asked is None else {"type": "json_schema", "json_schema": {"schema": asked.schema_}}
