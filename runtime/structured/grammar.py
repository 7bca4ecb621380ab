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

    __slots__ = ("_mask", "_num_bytes", "full_bytes", "matcher")

    def __init__(self, matcher: LLMatcher, num_bytes: int, full_bytes: int) -> None:
        """`num_bytes`: of a mask. `full_bytes`: of what llguidance makes, which may know more tokens."""
        self.matcher = matcher
        self.full_bytes = full_bytes
        self._num_bytes = num_bytes
        self._mask: bytes | None = None

    def copy(self) -> Grammar:
        """The same place, for another sequence."""
        return Grammar(self.matcher.deep_copy(), self._num_bytes, self.full_bytes)

    def mask(self) -> bytes | None:
        if self._mask is None:
            self.keep_mask(self.matcher.compute_bitmask())
        return self._mask

    @property
    def without_mask(self) -> Grammar | None:
        """The grammar of llguidance's whose mask `mask` would have to compute; None: it is known, or needs none."""
        return self if self._mask is None else None

    def keep_mask(self, full: bytes | memoryview) -> None:
        """Take what was computed for this place."""
        self._mask = bytes(full[: self._num_bytes])

    def accept(self, token_id: int) -> None:
        """Go on behind a token that `mask` allows."""
        self._mask = None
        self.matcher.consume_token(token_id)

    def forced(self) -> int | None:
        """The token that must come next, where `mask` allows no other."""
        tokens: list[int] = self.matcher.compute_ff_tokens()
        return tokens[0] if tokens else None

    @property
    def ended(self) -> bool:
        """Whether nothing can follow any more, so that the text is whole; also where it failed."""
        return bool(self.matcher.is_stopped())

    @property
    def failure(self) -> str | None:
        """Why it cannot go on: the text came to a place that costs too much, or all that is allowed was forbidden."""
        if not self.matcher.is_error():
            return None
        return f"The structured output failed: {' '.join(self.matcher.get_error().split())[:500]}"
