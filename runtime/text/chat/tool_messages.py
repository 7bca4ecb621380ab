"""Tools and calls in a conversation, for templates that know them and for those that do not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from inflight.errors import RequestError

# The form is that of Hermes (https://github.com/NousResearch/Hermes-Function-Calling), which many models have read.
_INTRODUCTION = """You may call functions to answer the user. Here they are as JSON, one on each line:
<tools>
{tools}
</tools>

To call one, write a JSON object with its name and arguments between <tool_call> and </tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument's name": "its value"}}}}
</tool_call>"""


def call_arguments(given: Any) -> dict[str, Any]:
    """The arguments of a call, which clients write as JSON text and templates read as an object. Raises ValueError with
    what is wrong."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the arguments of a call must be JSON text of an object: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"the arguments of a call must be an object, not {type(given).__name__}")
    return given


def speaks_of_tools(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some message calls a tool or has the result of a call."""
    return any(message.get("tool_calls") or message["role"] == "tool" for message in messages)


def with_arguments(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Arguments as objects, and results with the name of their tool. Raises RequestError for arguments that are no JSON
    of an object."""
    names: dict[Any, str] = {}
    found = []
    for index, message in enumerate(messages):
        calls = message.get("tool_calls")
        if message["role"] == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message = {**message, "name": names[message["tool_call_id"]]}
        elif calls:
            try:
                calls = [_with_object(call) for call in calls]
            except (ValueError, TypeError, KeyError) as error:
                raise RequestError(f"Message {index} has a tool call that cannot be read: {error}.") from None
            names |= {call.get("id"): call["function"]["name"] for call in calls}
            message = {**message, "tool_calls": calls}
        found.append(dict(message))
    return found


def with_argument_text(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For templates that write arguments as they are given: as JSON text."""
    return [
        {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else dict(message)
        for message in messages
    ]


def with_calls_as_text(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For templates that know no calls: these and their results are part of the content, and it is the user who tells
    the results. Content must be strings."""
    found: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        if message["role"] == "tool":
            message = {"role": "user", "content": f"<tool_response>\n{message.get('content', '')}\n</tool_response>"}
            is_result = True
        else:
            is_result = False
            if message.get("tool_calls"):
                message = _spelled(message)
        if after_result and message["role"] == "user":
            # Many templates want user and assistant to alternate.
            found[-1]["content"] += f"\n{message['content']}"
        else:
            found.append(dict(message))
        after_result = is_result or (after_result and message["role"] == "user")
    return found


def with_introduction(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], takes_system: bool
) -> list[dict[str, Any]]:
    """For templates that know no tools: they are described in the system message, or in front of the first message
    where the template takes none."""
    functions = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    text = _INTRODUCTION.format(tools="\n".join(functions))
    first = dict(messages[0])
    if first["role"] == "system":
        return [{**first, "content": f"{first.get('content', '')}\n\n{text}".strip()}, *map(dict, messages[1:])]
    if takes_system:
        return [{"role": "system", "content": text}, *map(dict, messages)]
    return [{**first, "content": f"{text}\n\n{first.get('content', '')}"}, *map(dict, messages[1:])]


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": call_arguments(function.get("arguments", {}))}}


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _spelled(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in message["tool_calls"]
    ]
    spelled = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    content = message.get("content") or ""
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([content, *spelled] if content else spelled)}
