"""One call as <function=NAME> with <parameter=NAME> in it, in text that comes in pieces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inflight.runtime.text.parsers.json_value import read_json
from inflight.runtime.text.parsers.marked_text import first_marker, may_begin
from inflight.runtime.text.parsers.parts import Part, ToolCallArguments, ToolCallStart

_FUNCTION, _PARAMETER, _END_PARAMETER, _END = "<function=", "<parameter=", "</parameter>", "</function>"
_BLANKS = " \t\n\r"
# Of names; what is longer is none.
_LONGEST = 256
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def is_text(schema: Any) -> bool:
    """Whether an argument of this schema is a string and nothing else."""
    return isinstance(schema, Mapping) and schema.get("type") == "string"


class FunctionBlock:
    """Reads the block of call `index`. `schemas`: per function the schemas of its arguments, by which their text is
    read: a string is the text itself, and goes out as it grows, others are JSON. `is_open`: `<function=` was read.

    Its attributes are those of CallObject.
    """

    def __init__(self, index: int, schemas: Mapping[str, Any], *, is_open: bool = False) -> None:
        self.has_begun = self.is_over = False
        self._index = index
        self._schemas = schemas
        self._own: Any = {}
        self._keys: set[str] = set()
        self._key = ""
        self._text = ""
        self._is_streamed = self._has_text = self._skips = False
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
            }[self._state](text, at, parts)
            if then is None:
                break
            at = then
        return at

    def _read_function(self, text: str, at: int, parts: list[Part]) -> int | None:
        if text.startswith(_FUNCTION, at):
            self._state = "name"
            return at + len(_FUNCTION)
        self.is_over = not _FUNCTION.startswith(text[at:])
        return None

    def _read_name(self, text: str, at: int, parts: list[Part]) -> int | None:
        end = text.find(">", at)
        name = text[at : end if end >= 0 else len(text)]
        if "\n" in name or "<" in name or len(name) > _LONGEST or (end >= 0 and not name.strip()):
            self.is_over = True
        if end < 0 or self.is_over:
            return None
        own = self._schemas.get(name.strip())
        self._own = own if isinstance(own, Mapping) else {}
        self.has_begun, self._state = True, "arguments"
        parts.append(ToolCallStart(self._index, name.strip()))
        parts.append(ToolCallArguments(self._index, "{"))
        return end + 1

    def _read_arguments(self, text: str, at: int, parts: list[Part]) -> int | None:
        """Up to the next argument or the end; what stands between has no meaning."""
        found = first_marker(text[at:], (_PARAMETER, _END))
        if found is None:
            return None
        if found[1] == _END:
            parts.append(ToolCallArguments(self._index, "}"))
            self.is_over = True
        self._state = "key"
        return at + found[0] + len(found[1])

    def _read_key(self, text: str, at: int, parts: list[Part]) -> int | None:
        end = text.find(">", at)
        if end < 0:
            return None
        self._begin_value(text[at:end].strip(), parts)
        return end + 1

    def _begin_value(self, key: str, parts: list[Part]) -> None:
        self._key, self._text, self._has_text, self._state = key, "", False, "value"
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
        """The text between the marks, without one line break at each end."""
        rest = text[at:]
        if not self._has_text and rest:
            self._has_text = True
            if rest[0] == "\n":
                return at + 1
        markers = (_END_PARAMETER, f"\n{_END_PARAMETER}")
        found = first_marker(rest, markers)
        end = len(rest) - may_begin(rest, markers) if found is None else found[0]
        self._take(rest[:end], parts)
        if found is None:
            return at + end if end else None
        self._end_value(parts)
        self._state = "arguments"
        return at + found[0] + len(found[1])

    def _take(self, text: str, parts: list[Part]) -> None:
        if not self._is_streamed:
            self._text += text
        elif text:
            parts.append(ToolCallArguments(self._index, json.dumps(text, ensure_ascii=False)[1:-1]))

    def _end_value(self, parts: list[Part]) -> None:
        if self._is_streamed:
            parts.append(ToolCallArguments(self._index, '"'))
        elif not self._skips:
            parts.append(ToolCallArguments(self._index, _json_text(self._text)))


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
