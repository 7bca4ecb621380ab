"""Messages as chat templates expect them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inflight.errors import RequestError

Message = Mapping[str, Any]

CONTENT_HINT = 'A message looks like {"role": "user", "content": "Hello"}.'
_REASONING = ("reasoning_content", "thinking", "reasoning")
# The types of parts that OpenAI's APIs give to text, and the key under which each has it.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def conversations(messages: Any) -> list[Sequence[Message]]:
    """One conversation is a list of messages; a list of lists is several."""
    listed = isinstance(messages, Sequence) and messages
    if listed and all(isinstance(item, Sequence) and not isinstance(item, str) for item in messages):
        return list(messages)
    return [messages]


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Plain dicts without the keys whose value is None (templates test for presence), with parts of text as
    {"type": "text", "text": ...}, and with the reasoning of an earlier answer under every name it is read by.

    A message may be a pydantic model, as the openai package returns them. Raises RequestError when there are none, or
    one of them is not a mapping with a role that is a string.
    """
    given: Any = messages
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        raise RequestError("messages must be a list with at least one message.", CONTENT_HINT)
    found = [plain_data(message) for message in messages]
    for index, message in enumerate(found):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(f"Message {index} has no role.", CONTENT_HINT)
    present = [{key: value for key, value in message.items() if value is not None} for message in found]
    return [_with_reasoning_names(_with_text_parts(message)) for message in present]


def plain_data(value: Any) -> Any:
    """A copy in dicts and lists: what a template is given, it may keep."""
    if isinstance(value, Mapping):
        return {key: plain_data(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(each) for each in value]
    return plain_data(value.model_dump()) if callable(getattr(value, "model_dump", None)) else value


def have_parts(messages: Sequence[Message]) -> bool:
    """Whether the content of some message is a list of parts."""
    return any(isinstance(message.get("content"), list) for message in messages)


def with_joined_parts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """For templates to which content is a string: the parts of each message joined, with nothing between them.

    Raises RequestError for a part that is no text.
    """
    return [
        {**message, "content": _joined(index, message["content"])}
        if isinstance(message.get("content"), list)
        else dict(message)
        for index, message in enumerate(messages)
    ]


def with_developer_as_system(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """For templates that do not know the role developer, OpenAI's newer name for system."""
    return [{**each, "role": "system"} if each["role"] == "developer" else dict(each) for each in messages]


def _joined(index: int, parts: list[Any]) -> str:
    for part in parts:
        if not (isinstance(part, dict) and isinstance(part.get("text"), str)):
            kind = part.get("type") if isinstance(part, dict) else None
            raise RequestError(
                f"Message {index} has a content part of type {kind!r}; this model's chat template takes text only.",
                'A part of text looks like {"type": "text", "text": "Hello"}.',
            )
    return "".join(part["text"] for part in parts)


def _with_text_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [_text_part(part) for part in content]} if isinstance(content, list) else message


def _text_part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    key = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    return {"type": "text", "text": part[key]} if key and key in part and kind != "text" else part


def _with_reasoning_names(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}
