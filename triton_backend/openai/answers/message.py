"""The parts of an answer in the shapes of chat completions: a message, or the deltas of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from inflight.runtime.text.parsers.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallStart


def chat_message(parts: Iterable[Part]) -> dict[str, Any]:
    """The message of a choice that is not streamed. Content is null where there are calls and nothing beside them."""
    content: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    arguments: dict[int, list[str]] = {}
    for part in parts:
        if isinstance(part, Content):
            content.append(part.text)
        elif isinstance(part, ToolCallStart):
            arguments[part.index] = []
            calls[part.index] = {"id": part.call_id, "type": "function", "function": {"name": part.name}}
        elif isinstance(part, ToolCallArguments):
            arguments[part.index].append(part.text)
    for index, pieces in arguments.items():
        calls[index]["function"]["arguments"] = "".join(pieces)
    text = "".join(content)
    message = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    return message | ({"tool_calls": list(calls.values())} if calls else {})


def chat_deltas(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The deltas of a stream, pieces of the same thing joined. A call begins with a delta of its own, as OpenAI's do,
    whose arguments are empty."""
    deltas: list[dict[str, Any]] = []
    for before, part in zip([None, *parts], parts, strict=False):
        if isinstance(part, ToolCallStart):
            function = {"name": part.name, "arguments": ""}
            call = {"index": part.index, "id": part.call_id, "type": "function", "function": function}
            deltas.append({"tool_calls": [call]})
        elif isinstance(part, ToolCallArguments):
            if isinstance(before, ToolCallArguments) and before.index == part.index:
                deltas[-1]["tool_calls"][0]["function"]["arguments"] += part.text
            else:
                deltas.append({"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]})
        elif not isinstance(part, Reasoning):
            if isinstance(before, Content):
                deltas[-1]["content"] += part.text
            else:
                deltas.append({"content": part.text})
    return deltas
