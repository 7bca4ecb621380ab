"""Reasoning between two markers at the beginning of the text: `<think>...</think>` and its kin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from inflight.runtime.text.parsers.parts import Content, Part, Reasoning
from inflight.runtime.text.parsers.reasoning.parser import Beginning, ReasoningFamily
from inflight.runtime.text.stop_strings import overlap


@dataclass(frozen=True, slots=True)
class Span:
    """The markers of a family, in all of their spellings.

    `label` may follow the opening marker and is no reasoning; `answer`: markers that may lie around the answer.
    """

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    label: str = ""
    answer: tuple[str, str] | None = None

    def family(self) -> ReasoningFamily:
        return ReasoningFamily(
            parser=lambda beginning: SpanParser(self, beginning),
            markers=(*self.openings, *self.closings, *(self.answer or ())),
            signs=(self.closings[0], *(self.answer or ())),
            opening=self.openings[0],
            closing=self.closings[0],
            forced=self.closings[0],
            beginning=self.beginning,
        )

    def beginning(self, prompt: str) -> Beginning:
        """What `prompt`, or its end, says: whichever marker it ends with."""
        end = prompt.rstrip()
        if self.label:
            end = end.removesuffix(self.label.rstrip()).rstrip()
        if end.endswith(self.openings):
            return Beginning.REASONING
        return Beginning.CONTENT if end.endswith(self.closings) else Beginning.OPEN


class _State(Enum):
    UNDECIDED = auto()
    LABEL = auto()
    BLANK = auto()  # Before the first character of the reasoning.
    REASONING = auto()
    CLOSED = auto()  # Before the first character of the answer.
    UNWRAPPED = auto()  # The same, behind the opening marker of `answer`.
    CONTENT = auto()


_BEGINNINGS = {
    Beginning.OPEN: _State.UNDECIDED,
    Beginning.REASONING: _State.LABEL,
    Beginning.CONTENT: _State.CONTENT,
}
_THINKING = (_State.LABEL, _State.BLANK, _State.REASONING)


class SpanParser:
    """A ReasoningParser of one Span. Blanks around the markers belong to neither side.

    Without an opening marker at the beginning all is content. After the closing one all is content, too: a model that
    names a marker in its answer is not thinking again.
    """

    def __init__(self, span: Span, beginning: Beginning) -> None:
        self._span = span
        self._state = _BEGINNINGS[beginning]
        self._held = ""
        self._is_wrapped = False
        self.closed_by = ""

    @property
    def is_reasoning(self) -> bool:
        return self._state in _THINKING

    @property
    def holds_marker(self) -> bool:
        return bool(self._held.strip())

    @property
    def is_over(self) -> bool:
        return self._state not in (_State.UNDECIDED, *_THINKING)

    def push(self, text: str) -> Iterator[Part]:
        self._held += text
        return self._parts(False)

    def finish(self) -> Iterator[Part]:
        return self._parts(True)

    def _parts(self, final: bool) -> Iterator[Part]:
        while True:
            state = self._state
            part = self._advance(final)
            if part is not None and part.text:
                yield part
            if self._state is state:
                return

    def _advance(self, final: bool) -> Reasoning | Content | None:
        """Take what is certain from the text that is held, up to the next change of state."""
        if self._state is _State.REASONING:
            return self._reason(final)
        if self._state is _State.CONTENT:
            return Content(self._content(final))
        text = self._held.lstrip()
        if self._state is _State.UNDECIDED:
            self._meet(text, self._span.openings, _State.LABEL, _State.CONTENT, final)
        elif self._state is _State.LABEL:
            self._held = text
            self._meet(text, (self._span.label,), _State.BLANK, _State.BLANK, final)
        elif self._state is _State.CLOSED and self._span.answer is not None:
            self._held = text
            self._meet(text, self._span.answer[:1], _State.UNWRAPPED, _State.CONTENT, final)
        else:
            self._held = text
            if text or final:
                self._is_wrapped = self._state is _State.UNWRAPPED
                self._state = _State.REASONING if self._state is _State.BLANK else _State.CONTENT
        return None

    def _meet(self, text: str, markers: tuple[str, ...], found: _State, other: _State, final: bool) -> None:
        """Go on behind the one of `markers` with which `text` begins, or to `other` as soon as it begins with none."""
        for marker in markers:
            if text.startswith(marker):
                self._held, self._state = text[len(marker) :], found
                return
        if final or not any(marker.startswith(text) for marker in markers):
            self._state = other

    def _reason(self, final: bool) -> Reasoning:
        held = self._held
        found = [(at, marker) for marker in self._span.closings if (at := held.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            self._held, self._state, self.closed_by = held[at + len(marker) :], _State.CLOSED, marker
            return Reasoning(held[:at].rstrip())
        if final:
            self._held = ""
            return Reasoning(held)
        certain = held[: len(held) - max(overlap(held, marker) for marker in self._span.closings)].rstrip()
        self._held = held[len(certain) :]
        return Reasoning(certain)

    def _content(self, final: bool) -> str:
        """The text without the marker that ends the answer, if one began it."""
        held, self._held = self._held, ""
        if not self._is_wrapped or self._span.answer is None:
            return held
        closing = self._span.answer[1]
        if closing in held:
            self._is_wrapped = False
            return held.replace(closing, "", 1)
        kept = 0 if final else overlap(held, closing)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]
