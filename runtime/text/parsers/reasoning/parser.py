"""What every parser of reasoning can say, beside the parts that it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from inflight.runtime.text.parsers.parts import Part


class Beginning(Enum):
    """What an answer begins with, as the end of its prompt says."""

    OPEN = auto()  # The opening marker comes first, or the answer itself: the model decides.
    REASONING = auto()  # The prompt has the opening marker already.
    CONTENT = auto()  # The prompt has closed the reasoning, or goes on with an answer that was begun.


class ReasoningParser(Protocol):
    """An OutputParser of Reasoning and Content; what it calls Content goes to the parser of tool calls."""

    def push(self, text: str) -> Iterator[Part]:
        """As OutputParser."""

    def finish(self) -> Iterator[Part]:
        """As OutputParser."""

    @property
    def is_reasoning(self) -> bool:
        """Whether the next text is reasoning, as far as is known."""

    @property
    def holds_marker(self) -> bool:
        """Whether the text ends with what may be the beginning of a marker."""

    @property
    def closed_by(self) -> str:
        """The marker that ended the last reasoning; "" before."""

    @property
    def is_over(self) -> bool:
        """Whether no more reasoning can come."""


@dataclass(frozen=True, slots=True)
class ReasoningFamily:
    """How one family of models marks its reasoning.

    `parser` makes the parser of one sequence, and `markers` are all that it looks for. `opening` and `closing`: the
    markers around the reasoning, the first "" where the second comes before every answer; `forced`: what ends a
    reasoning that has become too long, and ends with `closing`. `signs`: what the chat template of such a model has.
    `beginning`: what a prompt says, or its end. `before_calls`: `opening`, `closing` and `forced` where calls of tools
    have to follow, if they are others.
    """

    parser: Callable[[Beginning], ReasoningParser]
    markers: tuple[str, ...]
    signs: tuple[str, ...]
    opening: str
    closing: str
    forced: str
    beginning: Callable[[str], Beginning]
    before_calls: tuple[str, str, str] | None = None
