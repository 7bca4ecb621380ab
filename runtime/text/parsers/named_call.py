"""One call whose name stands before its arguments, a JSON object, in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from inflight.runtime.text.parsers.json_value import JsonValue
from inflight.runtime.text.parsers.parts import Part, ToolCallArguments, ToolCallStart

# The most characters from the marker of a call to the opening brace of its arguments.
MOST_HEADER = 512


class Header(NamedTuple):
    """What stands before the arguments; `name` "" where that is no call."""

    name: str
    call_id: str | None = None


class NamedCall:
    """Reads call `index`. `header` says what the text before an opening brace is, the brace being the first one behind
    the text `until`; a text without any in MOST_HEADER characters is no call.

    Its attributes are those of CallObject.
    """

    def __init__(self, index: int, header: Callable[[str], Header], until: str = "") -> None:
        self.has_begun = self.is_over = False
        self._index = index
        self._header = header
        self._until = until
        self._value = JsonValue()

    def push(self, text: str, at: int, parts: list[Part]) -> int:
        """Read on from `at`, put the parts that come of it to `parts`, and return the place behind what was read. A
        header that is not whole yet is left, to be given again."""
        if not self.has_begun:
            at = self._begin(text, at, parts)
        if not self.has_begun:
            return at
        read, at = self._value.push(text, at)
        if read:
            parts.append(ToolCallArguments(self._index, read))
        self.is_over = self._value.done
        return at

    def _begin(self, text: str, at: int, parts: list[Part]) -> int:
        most = at + MOST_HEADER
        behind = text.find(self._until, at, most)
        brace = text.find("{", behind + len(self._until), most) if behind >= 0 else -1
        if brace < 0:
            self.is_over = len(text) >= most
            return at
        found = self._header(text[at:brace])
        if not found.name:
            self.is_over = True
            return at
        self.has_begun = True
        parts.append(ToolCallStart(self._index, found.name, found.call_id))
        return brace
