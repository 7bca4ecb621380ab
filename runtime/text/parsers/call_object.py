"""One call as a JSON object, {"name": ..., "arguments": {...}}, in text that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from inflight.runtime.text.parsers.json_value import JsonValue, read_json
from inflight.runtime.text.parsers.parts import Part, ToolCallArguments, ToolCallStart

_NAMES = ("name",)
_ARGUMENTS = ("arguments", "parameters")
_BLANK = re.compile(r"\s*")


class CallObject:
    """Reads the object of call `index`, from its opening brace on.

    The call `has_begun` once its name is known and its arguments open; before that it may still turn out to be none:
    then it `has_failed`, at the same character however the text was cut. Arguments may come before the name, and as
    JSON within a string; a call without any has an empty object, unless `needs_arguments`. `known`: the names that make
    it a call; None: any.
    """

    def __init__(self, index: int, known: Container[str] | None = None, *, needs_arguments: bool = False) -> None:
        self.has_begun = self.is_whole = self.has_failed = False
        self._index = index
        self._known = known
        self._needs_arguments = needs_arguments
        self._name: str | None = None
        self._arguments: str | None = None
        self._call_id: str | None = None
        self._key: str | None = None
        self._awaits = "{"
        self._value: JsonValue | None = None
        self._text = ""
        self._streams = False

    @property
    def is_over(self) -> bool:
        return self.is_whole or self.has_failed

    def push(self, text: str, at: int, parts: list[Part]) -> int:
        """Read on from `at`, put the parts that come of it to `parts`, and return the place behind what was read."""
        while not self.is_over:
            if self._value is None:
                blank = _BLANK.match(text, at)
                at = at if blank is None else blank.end()
            if at == len(text):
                break
            at = (self._read_mark if self._value is None else self._read_value)(text, at, parts)
            if self._awaits == "end":
                self._end(parts)
        return at

    def _read_mark(self, text: str, at: int, parts: list[Part]) -> int:
        """A brace, a comma, a colon, or the beginning of a key or a value, which is not read yet."""
        mark, awaits = text[at], self._awaits
        if awaits == "value" or (mark == '"' and awaits in ("key", "key or }")):
            self._value, self._text = JsonValue(), ""
            # Nothing that can stand here begins with these.
            self.has_failed = mark in ",:}]"
            self._streams = awaits == "value" and self._opens_arguments(mark)
            if self._streams:
                self._begin(parts)
            return at
        following = {
            ("{", "{"): "key or }",
            (":", ":"): "value",
            (", or }", ","): "key",
            (", or }", "}"): "end",
            ("key or }", "}"): "end",
        }
        self._awaits = following.get((awaits, mark), "")
        self.has_failed = not self._awaits
        return at if self.has_failed else at + 1

    def _read_value(self, text: str, at: int, parts: list[Part]) -> int:
        assert self._value is not None
        read, at = self._value.push(text, at)
        if not self._streams:
            self._text += read
        elif read:
            parts.append(ToolCallArguments(self._index, read))
        if not self._value.done:
            return at
        self._value = None
        if self._streams:
            self._streams, self._arguments, self._awaits = False, "", ", or }"
        elif self._awaits == "value":
            self._end_value(parts)
        else:
            self._end_key()
        return at

    def _opens_arguments(self, mark: str) -> bool:
        """Whether a value that begins so is the arguments of a call whose name is known."""
        return self._key in _ARGUMENTS and mark == "{" and self._name is not None and self._arguments is None

    def _end_key(self) -> None:
        self._key, self._awaits = _decoded(self._text), ":"
        self.has_failed = not isinstance(self._key, str)

    def _end_value(self, parts: list[Part]) -> None:
        self._awaits = ", or }"
        if self._key in _NAMES and self._name is None:
            name = _decoded(self._text)
            is_known = isinstance(name, str) and bool(name) and (self._known is None or name in self._known)
            self._name, self.has_failed = name if is_known else None, not is_known
        elif self._key in _ARGUMENTS and self._arguments is None:
            self._arguments = _object_text(self._text)
            self.has_failed = self._arguments is None
        elif self._key == "id" and self._call_id is None:
            found = _decoded(self._text)
            self._call_id = found if isinstance(found, str) and found else None
        if self._name is not None and self._arguments is not None and not self.has_begun and not self.has_failed:
            self._begin(parts)
            parts.append(ToolCallArguments(self._index, self._arguments))

    def _end(self, parts: list[Part]) -> None:
        if self.has_begun:
            self.is_whole = True
        elif self._name is None or self._needs_arguments:
            self.has_failed = True
        else:
            self._begin(parts)
            parts.append(ToolCallArguments(self._index, "{}"))
            self.is_whole = True

    def _begin(self, parts: list[Part]) -> None:
        assert self._name is not None
        self.has_begun = True
        parts.append(ToolCallStart(self._index, self._name, self._call_id))


def _decoded(text: str) -> Any:
    """The value of JSON text; None for what is none."""
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        return None


def _object_text(text: str) -> str | None:
    """`text` as the text of a JSON object, which it is, holds as a string, or leaves out as null; None otherwise."""
    value = _decoded(text)
    if isinstance(value, str):
        text, value = value, _decoded(value)
    if value is None and text.strip() in ("null", ""):
        return "{}"
    return text if isinstance(value, dict) else None
