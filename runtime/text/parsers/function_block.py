"""One call as <function=NAME> with <parameter=NAME> in it, in text that comes in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from inflight.runtime.text.parsers.json_value import JsonValue, read_json
from inflight.runtime.text.parsers.marked_text import first_marker, may_begin
from inflight.runtime.text.parsers.parts import Part, ToolCallArguments, ToolCallStart

_FUNCTION, _PARAMETER, _END_PARAMETER, _END = "<function=", "<parameter=", "</parameter>", "</function>"
_BLANKS = " \t\n\r"
# Of names; what is longer is none.
LONGEST_NAME = 256
# Of what is held back where a mark may be part of a JSON string. It then is.
_LONGEST_DOUBT = 1 << 16
# What ends a JSON string, or shows that it is none, and what cannot: an escape.
_IN_STRING = re.compile(r'["\n\r]|\\(?s:.)')
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def is_text(schema: Any) -> bool:
    """Whether an argument of this schema is a string and nothing else."""
    return isinstance(schema, Mapping) and schema.get("type") == "string"


class FunctionBlock:
    """Reads the block of call `index`. `schemas`: per function the schemas of its arguments, by which their text is
    read: a string is the text itself, and goes out as it grows, others are JSON. `is_open`: `<function=` was read.

    The closing mark of an argument that stands within a string of its JSON is part of that string. There is doubt until
    the string ends, or has a line break, which no JSON string has and which stands beside the mark where models have
    left their JSON open; `settle` ends it where no more text comes.

    Its attributes are those of CallObject.
    """

    # What ends a value, and whether a line break before it is layout.
    _ends: tuple[str, ...] = (f"\n{_END_PARAMETER}", _END_PARAMETER)
    _begins_line = True

    def __init__(self, index: int, schemas: Mapping[str, Any], *, is_open: bool = False) -> None:
        self.has_begun = self.is_over = False
        self._index = index
        self._schemas = schemas
        self._own: Any = {}
        self._keys: set[str] = set()
        self._key = ""
        self._pieces: list[str] = []
        # Where the value is in its JSON; None: it has not begun.
        self._json: JsonValue | None = None
        self._is_streamed = self._has_text = self._skips = self._is_settled = False
        # How much of the text behind a doubtful mark, the mark included, was looked at.
        self._doubted = 0
        self._state = "name" if is_open else "function"

    def push(self, text: str, at: int, parts: list[Part]) -> int:
        """Read on from `at`, put the parts that come of it to `parts`, and return the place behind what was read. A
        mark that is not whole yet is left, to be given again."""
        while not self.is_over:
            then = {
                "function": self._read_function,
                "name": self._read_name,
                "arguments": self._read_arguments,
                "key": self._read_key,
                "value": self._read_value,
                "doubt": self._read_doubt,
            }[self._state](text, at, parts)
            if then is None:
                break
            at = then
        return at

    def settle(self) -> None:
        """No more text comes: what may yet be part of a JSON string is none."""
        self._is_settled = True

    def _read_function(self, text: str, at: int, parts: list[Part]) -> int | None:
        if text.startswith(_FUNCTION, at):
            self._state = "name"
            return at + len(_FUNCTION)
        self.is_over = not _FUNCTION.startswith(text[at : at + len(_FUNCTION)])
        return None

    def _read_name(self, text: str, at: int, parts: list[Part]) -> int | None:
        end = text.find(">", at, at + LONGEST_NAME + 1)
        name = text[at : end if end >= 0 else at + LONGEST_NAME + 1]
        if "\n" in name or "<" in name or len(name) > LONGEST_NAME or (end >= 0 and not name.strip()):
            self.is_over = True
        if end < 0 or self.is_over:
            return None
        self._begin(name.strip(), parts)
        return end + 1

    def _begin(self, name: str, parts: list[Part]) -> None:
        own = self._schemas.get(name)
        self._own = own if isinstance(own, Mapping) else {}
        self.has_begun, self._state = True, "arguments"
        parts.append(ToolCallStart(self._index, name))
        parts.append(ToolCallArguments(self._index, "{"))

    def _read_arguments(self, text: str, at: int, parts: list[Part]) -> int | None:
        """Up to the next argument or the end; what stands between has no meaning."""
        return self._read_between(text, at, parts, _PARAMETER, _END, len(_END))

    def _read_between(
        self, text: str, at: int, parts: list[Part], opening: str, closing: str, taken: int
    ) -> int | None:
        """`taken`: how much of the closing mark is the block's own."""
        marks = (opening, closing)
        found = first_marker(text, marks, at)
        if found is None:
            end = len(text) - may_begin(text, marks, at)
            return end if end > at else None
        if found[1] == closing:
            parts.append(ToolCallArguments(self._index, "}"))
            self.is_over = True
            return found[0] + taken
        self._state = "key"
        return found[0] + len(opening)

    def _read_key(self, text: str, at: int, parts: list[Part]) -> int | None:
        end = text.find(">", at, at + LONGEST_NAME + 1)
        if end < 0:
            return self._leave_key(text, at, LONGEST_NAME + 1)
        self._begin_value(text[at:end].strip(), parts)
        return end + 1

    def _leave_key(self, text: str, at: int, most: int) -> int | None:
        """What has no end within `most` characters is no key."""
        if len(text) - at < most:
            return None
        self._state = "arguments"
        return at

    def _begin_value(self, key: str, parts: list[Part]) -> None:
        self._key, self._pieces, self._json, self._has_text = key, [], None, False
        self._state = "value"
        is_new = self._key not in self._keys
        if is_new:
            comma = ", " if self._keys else ""
            parts.append(ToolCallArguments(self._index, f"{comma}{json.dumps(self._key, ensure_ascii=False)}: "))
        # What is given twice counts once, as it stood first.
        self._skips = not is_new
        self._keys.add(self._key)
        self._is_streamed = is_text(self._own.get(self._key)) and is_new
        if self._is_streamed:
            parts.append(ToolCallArguments(self._index, '"'))

    def _read_value(self, text: str, at: int, parts: list[Part]) -> int | None:
        """The text up to the closing mark, without one line break at each end where these are layout."""
        if not self._has_text and at < len(text):
            self._has_text = True
            if self._begins_line and text[at] == "\n":
                return at + 1
        found = first_marker(text, self._ends, at)
        end = len(text) - may_begin(text, self._ends, at) if found is None else found[0]
        self._take(text[at:end], parts)
        if found is None:
            return end if end > at else None
        if not self._is_streamed and self._json is not None and self._json.in_string and found[1][0] != "\n":
            self._state, self._doubted = "doubt", len(found[1])
            return end
        self._end_value(parts)
        return end + len(found[1])

    def _read_doubt(self, text: str, at: int, parts: list[Part]) -> int | None:
        """At a closing mark within a string: up to the end of that string, of which the mark is part, or no further
        than the mark, which then ends the value."""
        look = at + self._doubted
        while (found := _IN_STRING.search(text, look)) is not None:
            if found.end() - at > _LONGEST_DOUBT:
                break
            if found[0] == '"':
                return self._trust(text, at, found.end(), parts)
            if found[0] in "\n\r":
                return self._distrust(text, at, parts)
            look = found.end()
        if len(text) - at > _LONGEST_DOUBT:
            return self._trust(text, at, at + _LONGEST_DOUBT, parts)
        self._doubted = len(text) - at - text.endswith("\\", look)
        return self._distrust(text, at, parts) if self._is_settled else None

    def _trust(self, text: str, at: int, end: int, parts: list[Part]) -> int:
        self._take(text[at:end], parts)
        self._state = "value"
        return end

    def _distrust(self, text: str, at: int, parts: list[Part]) -> int:
        self._end_value(parts)
        return at + len(self._ends[-1])

    def _take(self, text: str, parts: list[Part]) -> None:
        if self._is_streamed:
            if text:
                parts.append(ToolCallArguments(self._index, json.dumps(text, ensure_ascii=False)[1:-1]))
            return
        self._pieces.append(text)
        at = 0
        if self._json is None and (shown := text.lstrip(_BLANKS)):
            self._json, at = JsonValue(), len(text) - len(shown)
        if self._json is not None:
            self._json.push(text, at)

    def _end_value(self, parts: list[Part]) -> None:
        self._state = "arguments"
        if self._is_streamed:
            parts.append(ToolCallArguments(self._index, '"'))
        elif not self._skips:
            parts.append(ToolCallArguments(self._index, _json_text("".join(self._pieces))))


def _json_text(text: str) -> str:
    """The JSON of what `text` says: JSON itself, Python's words for true, false and null, or else a string. An argument
    of several types, one of them a string, is one where it reads as nothing else."""
    shown = text.strip(_BLANKS)
    try:
        value = read_json(shown)
    except (ValueError, RecursionError):
        return _PYTHON.get(shown) or json.dumps(text, ensure_ascii=False)
    # Quotation marks around a text are part of it, as they are where it is known to be a string.
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else shown
