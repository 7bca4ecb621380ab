"""How many tokens of an answer are reasoning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inflight.runtime.text.parsers.reasoning.parser import ReasoningParser
from inflight.runtime.text.tokenizer import Tokenizer


class ReasoningTokens:
    """Counts those of one sequence: tokens between the markers, which do not count themselves.

    `parser`: a new one, for this alone. It reads every token's text, special ones included, so that the count does not
    depend on what is shown, or on how the tokens come together.
    """

    def __init__(self, parser: ReasoningParser, tokenizer: Tokenizer) -> None:
        self._parser = parser
        self._tokenizer = tokenizer
        # The texts of tokens that are reasoning unless they turn out to be a marker.
        self._undecided: list[str] = []
        self.count = 0

    def push(self, token_ids: Sequence[int], finished: bool = False) -> int:
        """Take the next tokens; the count so far. `finished`: no more will come."""
        for token_id in token_ids:
            if self._parser.is_over:
                break
            self._read(self._tokenizer.token_text(token_id))
        if finished:
            self.count, self._undecided = self.count + len(self._undecided), []
        return self.count

    def _read(self, text: str) -> None:
        was_reasoning = self._parser.is_reasoning
        for _ in self._parser.push(text):
            pass
        if not was_reasoning:
            return
        self._undecided.append(text)
        if self._parser.is_reasoning:
            if not self._parser.holds_marker:
                self.count, self._undecided = self.count + len(self._undecided), []
            return
        begin = "".join(self._undecided).find(self._parser.closed_by)
        for each in self._undecided:
            self.count += begin > 0
            begin -= len(each)
        self._undecided = []


class ReasoningCounts:
    """Of all sequences of one request; `total` is their sum."""

    def __init__(self, parser: Callable[[], ReasoningParser], tokenizer: Tokenizer) -> None:
        self._parser = parser
        self._tokenizer = tokenizer
        self._sequences: dict[int, ReasoningTokens] = {}
        self.total = 0

    def push(self, index: int, token_ids: Sequence[int], finished: bool) -> None:
        """As ReasoningTokens, for sequence `index`."""
        if index not in self._sequences:
            self._sequences[index] = ReasoningTokens(self._parser(), self._tokenizer)
        counter = self._sequences[index]
        before = counter.count
        self.total += counter.push(token_ids, finished) - before
