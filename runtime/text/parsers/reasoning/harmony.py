"""The channels of gpt-oss, OpenAI's harmony format: reasoning in `analysis`, the answer in `final`.

An answer is a row of messages, `<|channel|>CHANNEL<|message|>TEXT<|end|>`, from the second on behind
`<|start|>assistant`. A message with a recipient, `to=functions.NAME`, is a tool call and stays as it is, with its
header, for the parser of tool calls; `commentary` without one is for the user's eyes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from inflight.runtime.text.parsers.parts import Content, Part, Reasoning
from inflight.runtime.text.parsers.reasoning.parser import Beginning, ReasoningFamily
from inflight.runtime.text.stop_strings import overlap

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKERS = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)
RECIPIENT = "to="
_FINAL = f"{CHANNEL}final{MESSAGE}"
# What a header begins with; the role has been written by the prompt, or follows <|start|>.
_HEADS = (START, CHANNEL, MESSAGE, CONSTRAIN, RECIPIENT)
# Longer ones are no headers but text.
_MOST_HEADER = 512


def harmony_beginning(prompt: str) -> Beginning:
    """What the message says that `prompt` leaves open."""
    header, has_body, _ = prompt.rpartition(START)[2].rpartition(MESSAGE)
    if not has_body:
        return Beginning.OPEN
    return Beginning.REASONING if _kind(header) is _State.REASONING else Beginning.CONTENT


class _State(Enum):
    HEADER = auto()
    REASONING = auto()
    CONTENT = auto()
    CALL = auto()


class HarmonyParser:
    """A ReasoningParser. Text that is in no message is content."""

    def __init__(self, beginning: Beginning) -> None:
        states = {Beginning.REASONING: _State.REASONING, Beginning.CONTENT: _State.CONTENT}
        self._state = states.get(beginning, _State.HEADER)
        self._held = ""
        self.closed_by = ""

    @property
    def is_reasoning(self) -> bool:
        return self._state is _State.REASONING

    @property
    def holds_marker(self) -> bool:
        return bool(self._held)

    @property
    def is_over(self) -> bool:
        """Never: the model may come back to the analysis behind a comment."""
        return False

    def push(self, text: str) -> Iterator[Part]:
        self._held += text
        return self._parts(False)

    def finish(self) -> Iterator[Part]:
        return self._parts(True)

    def _parts(self, final: bool) -> Iterator[Part]:
        while True:
            before = len(self._held), self._state
            text = self._header(final) if self._state is _State.HEADER else self._body(final)
            if text:
                yield Reasoning(text) if before[1] is _State.REASONING else Content(text)
            if before == (len(self._held), self._state):
                return

    def _header(self, final: bool) -> str:
        """Take a header, once it is whole; what is none is given back as the beginning of content."""
        held = self._held.lstrip()
        header, is_whole, rest = held.partition(MESSAGE)
        if is_whole and len(header) <= _MOST_HEADER and _is_header(header):
            self._state, self._held = _kind(header), rest
            return header + MESSAGE if self._state is _State.CALL else ""
        if not _may_be_header(held) or len(header) > _MOST_HEADER or is_whole:
            # The marker that it begins with is text as well, or the body would take it for the next header.
            text = next((head for head in _HEADS if held.startswith(head)), "")
            self._state, self._held = _State.CONTENT, held[len(text) :] if text else self._held
            return text
        if final:
            self._held = ""
        return ""

    def _body(self, final: bool) -> str:
        """Take what is certain of a message, up to the marker that ends it."""
        held, ends = self._held, (*ENDS, START, CHANNEL)
        found = [(at, end) for end in ends if (at := held.find(end)) >= 0]
        if found:
            at, end = min(found)
            self.closed_by = end if self._state is _State.REASONING else self.closed_by
            is_end = end in ENDS
            text = held[:at] + (end if is_end and self._state is _State.CALL else "")
            self._held, self._state = held[at + len(end) * is_end :], _State.HEADER
            return text
        kept = 0 if final else max(overlap(held, end) for end in ends)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]


def _kind(header: str) -> _State:
    if RECIPIENT in header:
        return _State.CALL
    return _State.REASONING if header.partition(CHANNEL)[2].strip().startswith("analysis") else _State.CONTENT


def _is_header(header: str) -> bool:
    return header == "" or header.startswith(_HEADS)


def _may_be_header(text: str) -> bool:
    return text.startswith(_HEADS) or any(head.startswith(text) for head in _HEADS)


HARMONY = ReasoningFamily(
    parser=HarmonyParser,
    markers=MARKERS,
    signs=(START, CHANNEL, MESSAGE),
    opening="",
    closing=_FINAL,
    forced=f"{ENDS[0]}{START}assistant{_FINAL}",
    beginning=harmony_beginning,
    before_calls=(f"{CHANNEL}analysis{MESSAGE}", f"{START}assistant", f"{ENDS[0]}{START}assistant"),
)
