"""Calls that are JSON objects: between markers, in lists, or as the whole answer."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from typing import Protocol

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.call_object import CallObject
from inflight.runtime.text.parsers.marked_text import ContentText, first_marker, may_begin
from inflight.runtime.text.parsers.parts import Part
from inflight.runtime.text.parsers.tool_format import Spell, Tools

_BLANKS = " \t\n\r"
_SEPARATORS = _BLANKS + ",;"


class CallReader(Protocol):
    """What reads one call; see CallObject."""

    @property
    def has_begun(self) -> bool: ...

    @property
    def is_over(self) -> bool: ...

    def push(self, text: str, at: int, parts: list[Part]) -> int: ...


class JsonCallParser:
    """Reads calls such as `opening {"name": ..., "arguments": {...}} closing`.

    Behind an opening marker stands an object, or a list of them; objects that follow each other, with blanks, commas or
    semicolons between them, are further calls. `closing` None: there is no such marker. `bare`: names of tools, and an
    answer that begins with an object or list of calls to these, with arguments, is calls without any marker; None:
    calls need one. `ends`: further markers that may follow a call, and say nothing.
    """

    def __init__(
        self,
        opening: Sequence[str],
        closing: str | None,
        bare: Container[str] | None = None,
        ends: Sequence[str] = (),
    ) -> None:
        self._opening = tuple(opening)
        self._closing = closing
        self._ends = tuple(ends)
        self._bare = bare
        self._content = ContentText()
        self._held = ""
        # What was read since the opening marker: content, should no call follow.
        self._raw = ""
        self._call: CallReader | None = None
        self._opened_by: str | None = None
        self._count = 0
        self._state = "content" if bare is None else "start"

    def push(self, text: str) -> Iterator[Part]:
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        yield from parts

    def finish(self) -> Iterator[Part]:
        parts: list[Part] = []
        if self._state == "between":
            self._content.push(self._held.lstrip(_SEPARATORS + "]"), parts)
        elif self._call is None or not self._call.has_begun:
            self._content.push(self._raw + self._held, parts)
        self._content.finish(parts)
        self._held = self._raw = ""
        yield from parts

    def _step(self, parts: list[Part]) -> bool:
        """Read on; False: more text is needed."""
        if not self._held:
            return False
        return {
            "start": self._read_start,
            "content": self._read_content,
            "opened": self._read_opened,
            "call": self._read_call,
            "between": self._read_between,
        }[self._state](parts)

    def _read_start(self, parts: list[Part]) -> bool:
        """The first character that is no blank says whether the answer is calls."""
        shown = self._held.lstrip(_BLANKS)
        if not shown:
            return False
        self._state = "opened" if shown[0] in "{[" else "content"
        return True

    def _read_content(self, parts: list[Part]) -> bool:
        found = first_marker(self._held, self._opening)
        end = len(self._held) - may_begin(self._held, self._opening) if found is None else found[0]
        self._content.push(self._held[:end], parts)
        self._held = self._held[end:]
        if found is None:
            return False
        self._take(len(found[1]))
        self._opened_by, self._state = found[1], "opened"
        return True

    def _read_opened(self, parts: list[Part]) -> bool:
        """Blanks, and a bracket where a list begins."""
        shown = self._held.lstrip(_BLANKS + "[")
        self._take(len(self._held) - len(shown))
        if shown:
            self._begin_call()
        return bool(shown)

    def _begin_call(self) -> None:
        self._call, self._state = self._reader(self._count, self._opened_by), "call"

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        """What reads the call that begins; `opened_by` is the marker before it, None where there is none."""
        is_bare = opened_by is None
        return CallObject(index, self._bare if is_bare else None, needs_arguments=is_bare)

    def _read_call(self, parts: list[Part]) -> bool:
        assert self._call is not None
        end = self._call.push(self._held, 0, parts)
        if self._call.has_begun:
            self._content.note_call()
            self._raw, self._held = "", self._held[end:]
        else:
            self._take(end)
        if not self._call.is_over:
            return False
        if self._call.has_begun:
            self._count += 1
            self._state = "between"
        else:
            self._content.push(self._raw, parts)
            self._raw, self._state = "", "content"
        self._call = None
        return True

    def _read_between(self, parts: list[Part]) -> bool:
        """What follows a call: the end of a list, the closing marker, another call, or content."""
        markers = (*self._opening, *self._ends, *([self._closing] if self._closing else []))
        shown = self._held.lstrip(_SEPARATORS + "]")
        if not shown or may_begin(shown, markers) == len(shown):
            return False
        end = next((end for end in self._ends if shown.startswith(end)), None)
        if end is not None:
            self._held = shown[len(end) :]
        elif self._closing and shown.startswith(self._closing):
            self._held, self._state = shown[len(self._closing) :], "content"
        elif shown[0] == "{":
            self._take(len(self._held) - len(shown))
            self._begin_call()
        else:
            self._state = "content"
        return True

    def _take(self, count: int) -> None:
        """Move characters from what is held to what is read."""
        self._raw, self._held = self._raw + self._held[:count], self._held[count:]


def json_call_grammar(tools: Tools, key: str) -> str:
    """The rule `call` of an object of one of `tools`, with arguments under `key`, and a rule for the arguments of
    each."""
    objects = []
    rules = []
    for number, tool in enumerate(tools):
        begin = f'{{"name": {json.dumps(tool.name)}, {json.dumps(key)}: '
        objects.append(f'{json.dumps(begin)} arguments_{number} "}}"')
        rules.append(f"arguments_{number}: {json_rule(tool.parameters)}")
    return "\n".join([f"call: {' | '.join(objects)}", *rules])


def json_call_list(tools: Tools, most: int, before: str, after: str) -> str:
    """A list of calls; `before` and `after`: what stands around it in the grammar."""
    more = f' (", " call){{0,{most - 1}}}' if most > 1 else ""
    return f'calls: {before} "[" call{more} "]" {after}\n{json_call_grammar(tools, "arguments")}'


def marked_calls(tools: Tools, most: int, opening: str, closing: str, key: str, spell: Spell) -> str:
    """Calls, each between markers on lines of their own."""
    rules = [
        f'calls: marked ("\\n" marked){{0,{most - 1}}}' if most > 1 else "calls: marked",
        f'marked: {spell(opening)} "\\n" call "\\n" {spell(closing)}',
        json_call_grammar(tools, key),
    ]
    return "\n".join(rules)
