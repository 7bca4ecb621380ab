"""What the form of a family's tool calls consists of."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inflight.runtime.text.parsers.parts import OutputParser

# The most calls that a grammar lets one answer make: a model may know no end.
MOST_CALLS = 16


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is the JSON schema of its arguments, of an object."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    description: str | None = None


# A marker, as its text, to what stands for it in a Lark grammar: its token where it is a special one, else the text.
Spell = Callable[[str], str]
Tools = Sequence[Tool]


def openai_call_id() -> str:
    """In the shape of OpenAI's."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The form in which a family writes its calls.

    `fits`: whether a chat template, as its source, teaches this form. `parser`: a new one, for a sequence that may call
    these tools. `markers` are the texts around calls that may be special tokens of the family: those are kept in the
    text that the parser reads, and in no other. `grammar`: rules in Lark's syntax, as llguidance takes it, of an
    answer of one call to one of these tools at least and `most` at most; the rule that the others hang from is named
    `calls`, and names of rules that begin with `own_` are left to whoever embeds them. `new_call_id`: an id for a call
    to which the model gives none.
    """

    name: str
    fits: Callable[[str], bool]
    parser: Callable[[Tools], OutputParser]
    grammar: Callable[[Tools, int, Spell], str]
    markers: tuple[str, ...] = ()
    new_call_id: Callable[[], str] = openai_call_id
