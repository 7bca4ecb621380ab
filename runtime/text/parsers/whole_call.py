"""One call in a notation that is no JSON, NAME and arguments within brackets, read as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from typing import Any

from inflight.runtime.text.parsers.marked_text import first_marker, may_begin
from inflight.runtime.text.parsers.parts import Part, ToolCallArguments, ToolCallStart

_NAME = re.compile(r"[\w.\-]+")
_LONGEST_NAME = 256
# Brackets within each other; deeper ones are no call.
MOST_DEPTH = 64
_OPEN, _CLOSE = "([{", ")]}"


class WholeCall:
    """Reads call `index`, NAME(...) or NAME{...}, and gives its parts when the last bracket has come.

    `bracket`: the one behind the name. `quotes`: what strings begin and end with; those of one character know the
    backslash. `read`: the arguments out of the text between the brackets, None for what are none. `known`: the names
    that make it a call; None: any.

    Its attributes are those of CallObject.
    """

    def __init__(
        self,
        index: int,
        bracket: str,
        quotes: tuple[str, ...],
        read: Callable[[str], dict[str, Any] | None],
        known: Container[str] | None = None,
    ) -> None:
        self.has_begun = self.is_over = False
        self._index = index
        self._bracket = bracket
        self._quotes = quotes
        self._read = read
        self._known = known
        self._name: str | None = None
        self._pieces: list[str] = []
        self._depth = 0
        self._quote: str | None = None

    def push(self, text: str, at: int, parts: list[Part]) -> int:
        """Read on from `at`, put the parts that come of it to `parts`, and return the place behind what was read. A
        name, a mark or an escape that is not whole yet is left, to be given again."""
        if self._name is None:
            at = self._read_name(text, at)
        while self._name is not None and at < len(text) and not self.is_over:
            then = self._read_string(text, at) if self._quote is not None else self._read_structure(text, at)
            if then == at:
                break
            self._pieces.append(text[at:then])
            at = then
            if self._depth == 0:
                self._end(parts)
        return at

    def _read_name(self, text: str, at: int) -> int:
        found = _NAME.match(text, at)
        end = at if found is None else found.end()
        if at < len(text) and (found is None or end - at > _LONGEST_NAME):
            self.is_over = True
        elif found is not None and end < len(text):
            self.is_over = text[end] != self._bracket or (self._known is not None and found[0] not in self._known)
            self._name = None if self.is_over else found[0]
            return at if self.is_over else end
        return at

    def _read_string(self, text: str, at: int) -> int:
        """Up to the end of the string, as far as it has come."""
        assert self._quote is not None
        if len(self._quote) == 1 and text[at] == "\\":
            return at + 2 if at + 1 < len(text) else at
        if text.startswith(self._quote, at):
            end, self._quote = at + len(self._quote), None
            return end
        found = first_marker(text, (self._quote, "\\"), at + 1)
        if found is not None or len(self._quote) == 1:
            return len(text) if found is None else found[0]
        return len(text) - may_begin(text, self._quotes, at)

    def _read_structure(self, text: str, at: int) -> int:
        rest = text[at : at + max(map(len, self._quotes))]
        for quote in self._quotes:
            if rest.startswith(quote):
                self._quote = quote
                return at + len(quote)
        if text.endswith(rest) and any(quote.startswith(rest) for quote in self._quotes):
            return at
        mark = text[at]
        self._depth += (mark in _OPEN) - (mark in _CLOSE)
        self.is_over = self._depth > MOST_DEPTH
        return at + 1

    def _end(self, parts: list[Part]) -> None:
        assert self._name is not None
        self.is_over = True
        arguments = self._read("".join(self._pieces)[1:-1])
        if arguments is None:
            return
        try:
            text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError):
            # An infinity, as 1e999 is to Python, or a number of more digits than it writes.
            return
        self.has_begun = True
        parts.append(ToolCallStart(self._index, self._name))
        parts.append(ToolCallArguments(self._index, text))


def split_outside(text: str, mark: str, quotes: tuple[str, ...]) -> list[str]:
    """The parts of `text` between the marks that are in no string and no bracket."""
    parts, begin, at, depth = [], 0, 0, 0
    while at < len(text):
        quote = next((each for each in quotes if text.startswith(each, at)), None)
        if quote is not None:
            at = _behind_string(text, at + len(quote), quote)
            continue
        if text[at] == mark and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
        depth += (text[at] in _OPEN) - (text[at] in _CLOSE)
        at += 1
    return [*parts, text[begin:]]


def _behind_string(text: str, at: int, quote: str) -> int:
    while at < len(text) and not text.startswith(quote, at):
        at += 2 if len(quote) == 1 and text[at] == "\\" else 1
    return at + len(quote)
