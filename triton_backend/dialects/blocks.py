"""An answer as blocks, one behind the other: each is reasoning, text or a call, has a beginning, pieces and an end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import from_json

from inflight.runtime.text.parsers.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallStart

Kind = Literal["reasoning", "text", "call"]


@dataclass(slots=True)
class Block:
    """`index` counts the blocks of an answer from 0. `text` is all of it so far: for a call, its arguments.
    `is_whole`: another block followed, so that an answer which is cut off was not cut off in this one."""

    index: int
    kind: Kind
    name: str = ""
    call_id: str = ""
    is_whole: bool = False
    _pieces: list[str] = field(default_factory=list)

    def add(self, piece: str) -> None:
        self._pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def arguments(self) -> dict[str, Any]:
        """The arguments of a call as an object; those of one that was cut off as far as they go. What the model wrote
        and is no JSON is the value of INVALID_JSON, as Anthropic has it."""
        try:
            found = from_json(self.text or "{}", allow_partial=True)
        except ValueError:
            return {"INVALID_JSON": self.text}
        return found if isinstance(found, dict) else {"INVALID_JSON": self.text}


@dataclass(frozen=True, slots=True)
class Begun:
    block: Block


@dataclass(frozen=True, slots=True)
class Grown:
    block: Block
    piece: str


@dataclass(frozen=True, slots=True)
class Ended:
    block: Block


BlockEvent = Begun | Grown | Ended


class Blocks:
    """Makes blocks of parts. A text block begins with what is not blank: blanks between calls are no text. An answer
    of blanks alone is one block."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: Block | None = None
        self._blanks = ""

    def push(self, parts: list[Part]) -> Iterator[BlockEvent]:
        for part in parts:
            if isinstance(part, ToolCallStart):
                yield from self._begin("call", part.name, part.call_id or "")
            elif isinstance(part, ToolCallArguments):
                yield from self._grow(part.text)
            elif isinstance(part, Reasoning):
                self._blanks = ""
                if not self._is_open("reasoning"):
                    yield from self._begin("reasoning")
                yield from self._grow(part.text)
            else:
                yield from self._push_text(part)

    def finish(self) -> Iterator[BlockEvent]:
        """When the answer has ended."""
        if not self.all and self._blanks:
            blanks = self._blanks
            yield from self._begin("text")
            yield from self._grow(blanks)
        yield from self._end()

    def _push_text(self, part: Content) -> Iterator[BlockEvent]:
        text = part.text
        if not self._is_open("text"):
            text = self._blanks + text
            if not text.strip():
                self._blanks = text
                return
            yield from self._begin("text")
        yield from self._grow(text)

    def _is_open(self, kind: Kind) -> bool:
        return self._open is not None and self._open.kind == kind

    def _begin(self, kind: Kind, name: str = "", call_id: str = "") -> Iterator[BlockEvent]:
        if self._open is not None:
            self._open.is_whole = True
        yield from self._end()
        self._blanks = ""
        self._open = Block(len(self.all), kind, name, call_id)
        self.all.append(self._open)
        yield Begun(self._open)

    def _grow(self, piece: str) -> Iterator[BlockEvent]:
        assert self._open is not None, "pieces follow the beginning of their block"
        if piece:
            self._open.add(piece)
            yield Grown(self._open, piece)

    def _end(self) -> Iterator[BlockEvent]:
        if self._open is not None:
            yield Ended(self._open)
            self._open = None
