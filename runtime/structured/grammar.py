"""Where a sequence is in its grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Grammar:
    """A sequence's place in its grammar: which tokens may come next.

    `mask`: a bit for each token of the vocabulary, in little-endian words of 32, the lowest bit first; bits behind the
    vocabulary mean nothing. None: every token may come.
    """

    __slots__ = ("_matcher", "_num_bytes")

    def __init__(self, matcher: LLMatcher, num_bytes: int) -> None:
        """`num_bytes`: of a mask."""
        self._matcher = matcher
        self._num_bytes = num_bytes

    def copy(self) -> Grammar:
        """The same place, for another sequence."""
        return Grammar(self._matcher.deep_copy(), self._num_bytes)

    def mask(self) -> bytes | None:
        return bytes(self._matcher.compute_bitmask()[: self._num_bytes])

    def accept(self, token_id: int) -> None:
        """Go on behind a token that `mask` allows."""
        self._matcher.consume_token(token_id)

    def forced(self) -> int | None:
        """The token that must come next, where `mask` allows no other."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens[0] if tokens else None

    @property
    def ended(self) -> bool:
        """Whether nothing can follow any more, so that the text is whole; also where it failed."""
        return bool(self._matcher.is_stopped())

    @property
    def failure(self) -> str | None:
        """Why it cannot go on: the text came to a place that costs too much, or all that is allowed was forbidden."""
        if not self._matcher.is_error():
            return None
        return f"The structured output failed: {' '.join(self._matcher.get_error().split())[:500]}"
