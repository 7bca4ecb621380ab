"""The interface between programs and what runs their requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from inflight.errors import InflightError
from inflight.lang.choices import TokenLogprob
from inflight.lang.options import GenOptions
from inflight.lang.roles import Roles


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program is: its whole `text` so far, and the same as a chat.

    `messages` are the whole ones; `role` is that of the message which is open, `content` what it has so far.
    `is_chat`: the text begins with a role, so that the template spells the special tokens of a prompt.
    """

    text: str
    is_chat: bool = False
    messages: tuple[dict[str, str], ...] = ()
    role: str | None = None
    content: str = ""


@dataclass(slots=True)
class Answer:
    """One generated text, and what get_meta_info says of it."""

    text: str
    meta_info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scores:
    """For each option the tokens that it adds to the text; and, if asked for, these tokens with nothing before them."""

    tokens: list[list[TokenLogprob]]
    unconditional: list[list[TokenLogprob]] | None = None


class Backend(Protocol):
    """Runs the requests of programs. Safe to use from many threads. Raises InflightError for what cannot be served."""

    @property
    def roles(self) -> Roles:
        """The text around messages. Raises InflightError when the model has no chat template."""
        ...

    def generate(self, place: Place, options: GenOptions) -> list[Answer]:
        """The texts that go on from `place`, options.n of them."""
        ...

    def stream(self, place: Place, options: GenOptions) -> Iterator[Answer]:
        """The one text in parts, as it grows; each with the meta_info so far."""
        ...

    def score(self, place: Place, choices: Sequence[str], unconditional: bool) -> Scores:
        """The log probabilities of the tokens of whole options, all of them at once."""
        ...

    def cache_prefix(self, place: Place) -> None:
        """Compute the text, so that what begins with it shares its KV cache blocks."""
        ...

    def shutdown(self) -> None:
        """Free what the backend holds. Calling it twice is harmless."""
        ...


def first_difference(whole: Sequence[int], others: Sequence[Sequence[int]]) -> int:
    """How many tokens `whole` and all `others` begin with in common."""
    shortest = min(len(whole), *map(len, others))
    return next((at for at in range(shortest) if any(other[at] != whole[at] for other in others)), shortest)


def make_scores(
    choices: Sequence[str],
    start: int,
    tokens: list[list[TokenLogprob]],
    unconditional: list[list[TokenLogprob]] | None,
) -> Scores:
    """Of options whose tokens begin at `start`. The very first token of a text has no probability and counts for none.

    Raises InflightError where nothing is left to be scored.
    """
    if start == 0:
        tokens = [each[1:] for each in tokens]
        unconditional = None if unconditional is None else [each[1:] for each in unconditional]
    for choice, found in zip(choices, tokens, strict=True):
        if not found:
            where = "stand at the beginning of the text" if start == 0 else "add no token to the text"
            raise InflightError(f"The choice {choice!r} cannot be scored: it would {where}.", "Append text first.")
    return Scores(tokens, unconditional)


def spelled(options: GenOptions, token: TokenLogprob) -> TokenLogprob:
    """With the text only where return_text_in_logprobs asks for it."""
    return token if options.return_text_in_logprobs else (token[0], token[1], None)


def finish_reason(reason: str | None, stop_reason: object, num_tokens: int) -> dict[str, Any]:
    """As SGLang's meta_info has it."""
    if reason == "length":
        return {"type": "length", "length": num_tokens}
    return {"type": reason, "matched": stop_reason}
