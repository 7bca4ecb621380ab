"""Where a JSON value ends, in text that comes in pieces."""

from __future__ import annotations

import json
import re
from typing import Any

_IN_STRING = re.compile(r'["\\\x00-\x1f]')
_OUTSIDE = re.compile(r'["{}\[\]]')
_BEHIND_SCALAR = re.compile(r'[\s,:\[\]{}"]')
_ESCAPES = frozenset('"\\/bfnrtu')


class JsonValue:
    """Reads one value. Brackets are counted, and nothing else is checked.

    What models get wrong most in long strings is mended: control characters become their escapes, and a backslash that
    escapes nothing goes.
    """

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._is_scalar = self._in_string = self._is_escaped = False

    @property
    def in_string(self) -> bool:
        """Whether what was read ends within a string."""
        return self._in_string

    def push(self, text: str, at: int) -> tuple[str, int]:
        """More of the value out of `text`, from `at` on, and the place behind it."""
        pieces: list[str] = []
        while at < len(text) and not self.done:
            if self._in_string:
                at = self._read_string(text, at, pieces)
            elif self._is_scalar:
                at = self._read_scalar(text, at, pieces)
            else:
                at = self._read_structure(text, at, pieces)
        return "".join(pieces), at

    def _read_string(self, text: str, at: int, pieces: list[str]) -> int:
        if self._is_escaped:
            self._is_escaped = False
            if text[at] in _ESCAPES:
                pieces.append("\\" + text[at])
                return at + 1
        found = _IN_STRING.search(text, at)
        end = len(text) if found is None else found.start()
        pieces.append(text[at:end])
        if found is None:
            return end
        if found[0] == '"':
            self._in_string = False
            self.done = self._depth == 0
            pieces.append('"')
        elif found[0] == "\\":
            self._is_escaped = True
        else:
            pieces.append(json.dumps(found[0])[1:-1])
        return end + 1

    def _read_scalar(self, text: str, at: int, pieces: list[str]) -> int:
        found = _BEHIND_SCALAR.search(text, at)
        end = len(text) if found is None else found.start()
        pieces.append(text[at:end])
        self.done = found is not None
        return end

    def _read_structure(self, text: str, at: int, pieces: list[str]) -> int:
        found = _OUTSIDE.search(text, at)
        if self._depth == 0 and (found is None or found.start() != at):
            self._is_scalar = True
            return at
        end = len(text) if found is None else found.start()
        pieces.append(text[at:end])
        if found is None:
            return end
        pieces.append(found[0])
        if found[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
            # A closing bracket in place of a value ends it, too.
            self.done = self._depth <= 0
        return end + 1


def read_json(text: str) -> Any:
    """The value of a whole JSON text. Raises ValueError for what is none, NaN and the infinities among them, and
    RecursionError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(word: str) -> None:
    raise ValueError(word)
