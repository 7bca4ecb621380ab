"""The parts of an answer in the shapes of chat completions: a message, or the deltas of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inflight.runtime.text.parsers.message import GrowingMessage
from inflight.runtime.text.parsers.parts import Part, Reasoning, ToolCallArguments, ToolCallStart


def chat_message(parts: Iterable[Part], has_reasoning: bool = False) -> dict[str, Any]:
    """The message of a choice that is not streamed. Content is null where there are calls, or reasoning, and nothing
    beside them. `has_reasoning`: it is of a model that reasons, and says so where it did not."""
    message = GrowingMessage()
    message.add(parts)
    shown: dict[str, Any] = {"role": "assistant", "content": message.content, "refusal": None}
    if has_reasoning:
        shown |= _reasoning(message.reasoning)
    calls = [call.as_dict() for call in message.tool_calls]
    return shown | ({"tool_calls": calls} if calls else {})


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
        else:
            key = "reasoning_content" if isinstance(part, Reasoning) else "content"
            text = (deltas.pop()[key] if type(before) is type(part) else "") + part.text
            deltas.append(_reasoning(text) if isinstance(part, Reasoning) else {"content": text})
    return deltas


@dataclass(slots=True)
class HeldReasoning:
    """Reasoning of a stream that is sent in one piece: kept, per choice, until something else comes or the end."""

    holds: bool
    _kept: dict[int, list[Part]] = field(default_factory=dict)

    def push(self, index: int, parts: list[Part], is_end: bool) -> list[Part]:
        """What of choice `index` is to be sent now."""
        if not self.holds:
            return parts
        kept = self._kept.setdefault(index, [])
        kept += parts
        if not is_end and all(isinstance(part, Reasoning) for part in kept):
            return []
        self._kept[index] = []
        return kept


def _reasoning(text: str | None) -> dict[str, Any]:
    """Under the name that clients know from DeepSeek, and vLLM's newer one."""
    return {"reasoning_content": text, "reasoning": text}
