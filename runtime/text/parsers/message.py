"""A message while its parts come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from inflight.runtime.request.outputs import ToolCall
from inflight.runtime.text.parsers.parts import Content, Part, Reasoning, ToolCallStart


@dataclass(slots=True)
class GrowingMessage:
    """The parts of one answer, added up."""

    _content: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _names: dict[int, tuple[str, str]] = field(default_factory=dict)
    _arguments: dict[int, list[str]] = field(default_factory=dict)

    def add(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if isinstance(part, Content):
                self._content.append(part.text)
            elif isinstance(part, Reasoning):
                self._reasoning.append(part.text)
            elif isinstance(part, ToolCallStart):
                self._names[part.index] = (part.call_id or "", part.name)
                self._arguments[part.index] = []
            else:
                self._arguments[part.index].append(part.text)

    @property
    def content(self) -> str | None:
        """None where there are calls, or reasoning, and nothing beside them."""
        text = _joined(self._content)
        return None if not text and (self._names or self._reasoning) else text

    @property
    def reasoning(self) -> str | None:
        return _joined(self._reasoning) or None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        found = self._names.items()
        return tuple(ToolCall(call_id, name, _joined(self._arguments[index])) for index, (call_id, name) in found)


def _joined(pieces: list[str]) -> str:
    """The pieces, which become one, so that a stream does not join all of them again and again."""
    if len(pieces) > 1:
        pieces[:] = ["".join(pieces)]
    return pieces[0] if pieces else ""
