"""Plain text with markers in it, and the blanks around what the markers enclose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from inflight.runtime.text.parsers.parts import Content, Part
from inflight.runtime.text.stop_strings import overlap


def first_marker(text: str, markers: Sequence[str], at: int = 0) -> tuple[int, str] | None:
    """Where the first of `markers` begins in `text`, from `at` on, and which one; the longest of several at one place.

    It reads no further than that place, so that a text of many marks costs no more than its length.
    """
    found = _any_of(tuple(markers)).search(text, at)
    return None if found is None else (found.start(), found[0])


@lru_cache(maxsize=256)
def _any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))))


def may_begin(text: str, markers: Sequence[str], at: int = 0) -> int:
    """How many of the last characters of `text`, from `at` on, may be the beginning of a marker, and are not all of
    it."""
    tail = text[max(at, len(text) - max(map(len, markers), default=0)) :]
    return max((overlap(tail, marker) for marker in markers), default=0)


class ContentText:
    """The content of an answer, in the order of its text. Blanks beside a call are layout and no part of it: those at
    the end of a piece wait for what follows."""

    def __init__(self) -> None:
        self._blank = ""
        self._is_empty = True
        self._has_call = False

    def push(self, text: str, parts: list[Part]) -> None:
        """Put `text` to `parts`, without the blanks at its end."""
        shown = text.rstrip()
        if not shown:
            self._blank += text
            return
        before = self._blank + shown
        if self._is_empty and self._has_call:
            before = before.lstrip()
        parts.append(Content(before))
        self._blank, self._is_empty = text[len(shown) :], False

    def note_call(self) -> None:
        """A call stands here."""
        self._has_call = True

    def finish(self, parts: list[Part]) -> None:
        """The text ends: blanks at its end are content where there was no call."""
        if self._blank and not self._has_call:
            parts.append(Content(self._blank))
        self._blank = ""
