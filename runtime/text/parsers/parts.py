"""The parts of a chat answer, and what tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More text of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins. `index` counts the calls of one answer from 0; `call_id` is given where the model writes one."""

    index: int
    name: str
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the arguments of call `index`: all of them joined are a JSON object."""

    index: int
    text: str


Part = Reasoning | Content | ToolCallStart | ToolCallArguments


class OutputParser(Protocol):
    """Tells the parts of one sequence apart. What it is given may be cut anywhere, and the joined parts do not depend
    on where. It holds back only what may yet become a marker. It never raises for what a model writes: text that is no
    well-formed call is Content."""

    def push(self, text: str) -> Iterator[Part]:
        """The parts that `text` completes."""

    def finish(self) -> Iterator[Part]:
        """What was held back when the text ends."""
