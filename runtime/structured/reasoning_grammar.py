"""Where a sequence is that reasons first: free up to the closing marker, then in the grammar of its text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from inflight.runtime.structured.grammar import Grammar
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.text.stop_strings import overlap


@dataclass(frozen=True, slots=True)
class ReasoningPlan:
    """What all sequences with the same markers share.

    `words`: the bytes of each token. `opening_ids`, `forced_ids`: the tokens that spell those. `free`: for each number
    of bytes of the closing marker with which the text ends, the mask of tokens that may come next where a grammar
    follows: none that ends the text, and none that closes the reasoning and goes on with text of its own, which would
    escape the grammar.
    """

    opening: bytes
    closing: bytes
    words: Sequence[bytes]
    opening_ids: tuple[int, ...]
    forced_ids: tuple[int, ...]
    free: tuple[bytes, ...]

    @classmethod
    def of(
        cls,
        reasoning: ReasoningFirst,
        words: Sequence[bytes],
        end_ids: Iterable[int],
        opening_ids: Sequence[int],
        forced_ids: Sequence[int],
    ) -> ReasoningPlan:
        closing = reasoning.closing.encode()
        never = sum(1 << token for token in {*end_ids, *(token for token, word in enumerate(words) if not word)})
        every = (1 << len(words)) - 1
        # Of tokens that have the last byte of the marker and more behind it; few have.
        longer = [(token, word) for token, word in enumerate(words) if _goes_on(word, closing[-1:])]
        free = []
        for length in range(len(closing)):
            begun = closing[:length]
            escapes = (token for token, word in longer if _goes_on(begun + word, closing))
            free.append((every & ~never & ~sum(1 << token for token in escapes)).to_bytes(mask_bytes(words), "little"))
        return cls(reasoning.opening.encode(), closing, words, tuple(opening_ids), tuple(forced_ids), tuple(free))


def mask_bytes(words: Sequence[bytes]) -> int:
    """The length of a mask for a vocabulary of so many tokens; see Grammar."""
    return -(-len(words) // 32) * 4


class _Place(Enum):
    OPENING = auto()
    REASONING = auto()
    ANSWER = auto()


class ReasoningGrammar(Grammar):
    """As Grammar. `inner` is the grammar of what follows the reasoning; None: anything may.

    The reasoning is as long as the tokens before those of the closing marker are many: with a budget, the tokens of the
    forced end are the only ones allowed from then on.
    """

    __slots__ = ("_begun", "_budget", "_count", "_forced", "_inner", "_place", "_plan", "_tail")

    def __init__(self, plan: ReasoningPlan, budget: int | None, inner: Grammar | None) -> None:
        self._plan = plan
        self._budget = budget
        self._inner = inner
        self._place = _Place.OPENING if plan.opening_ids else _Place.REASONING
        # Tokens of the opening marker so far, of the reasoning, and of the forced end.
        self._begun = self._count = self._forced = 0
        # What may yet become the opening marker; then the last bytes of the reasoning, fewer than the closing one has.
        self._tail = b""

    def copy(self) -> ReasoningGrammar:
        twin = ReasoningGrammar(self._plan, self._budget, None if self._inner is None else self._inner.copy())
        for name in ("_begun", "_count", "_forced", "_place", "_tail"):
            setattr(twin, name, getattr(self, name))
        return twin

    def mask(self) -> bytes | None:
        if self._place is _Place.REASONING:
            if self._must_close:
                return self._only(self._plan.forced_ids[self._forced])
            return None if self._inner is None else self._plan.free[overlap(self._tail, self._plan.closing)]
        if self._inner is None:
            return None
        if self._place is _Place.ANSWER:
            return self._inner.mask()
        if self._begun:
            return self._only(self._plan.opening_ids[self._begun])
        return _with(self._inner.mask(), self._plan.opening_ids[0])

    @property
    def without_mask(self) -> Grammar | None:
        reasons = self._place is _Place.REASONING or self._begun
        return (
            None if self._inner is None or (self._place is not _Place.ANSWER and reasons) else self._inner.without_mask
        )

    def forced(self) -> int | None:
        if self._place is _Place.REASONING:
            return self._plan.forced_ids[self._forced] if self._must_close else None
        if self._place is _Place.ANSWER:
            return None if self._inner is None else self._inner.forced()
        return self._plan.opening_ids[self._begun] if self._begun else None

    def accept(self, token_id: int) -> None:
        if self._place is _Place.REASONING:
            self._reason(token_id)
        elif self._place is _Place.ANSWER:
            if self._inner is not None:
                self._inner.accept(token_id)
        elif self._inner is None:
            self._look_for_opening(token_id)
        elif self._opens(token_id, self._inner):
            self._begun += 1
            if self._begun == len(self._plan.opening_ids):
                self._place = _Place.REASONING
        else:
            self._place = _Place.ANSWER
            self._inner.accept(token_id)

    @property
    def ended(self) -> bool:
        return self._place is _Place.ANSWER and self._inner is not None and self._inner.ended

    @property
    def failure(self) -> str | None:
        return None if self._inner is None else self._inner.failure

    @property
    def _must_close(self) -> bool:
        """Whether the budget is spent."""
        return bool(self._forced) or (self._budget is not None and self._count >= self._budget)

    def _reason(self, token_id: int) -> None:
        if self._must_close:
            self._forced += 1
            if self._forced == len(self._plan.forced_ids):
                self._place = _Place.ANSWER
            return
        self._count += 1
        text = self._tail + self._word(token_id)
        if self._plan.closing in text:
            self._place = _Place.ANSWER
        self._tail = text[max(len(text) - len(self._plan.closing) + 1, 0) :]

    def _opens(self, token_id: int, inner: Grammar) -> bool:
        """Whether the token is the next of the opening marker; a grammar that allows it, too, has it."""
        if token_id != self._plan.opening_ids[self._begun]:
            return False
        return bool(self._begun) or not _has(inner.mask(), token_id)

    def _look_for_opening(self, token_id: int) -> None:
        """Nothing is masked before it, so that the model may spell it in other tokens, and put blanks before it."""
        self._tail = (self._tail + self._word(token_id)).lstrip()
        if self._tail.startswith(self._plan.opening):
            self._place, self._tail = _Place.REASONING, b""
        elif not self._plan.opening.startswith(self._tail):
            self._place = _Place.ANSWER

    def _word(self, token_id: int) -> bytes:
        return self._plan.words[token_id] if token_id < len(self._plan.words) else b""

    def _only(self, token_id: int) -> bytes:
        return (1 << token_id).to_bytes(mask_bytes(self._plan.words), "little")


def _goes_on(text: bytes, marker: bytes) -> bool:
    """Whether there is more than blanks behind the marker in `text`."""
    _, found, rest = text.partition(marker)
    return bool(found and rest.strip())


def _has(mask: bytes | None, token_id: int) -> bool:
    return mask is None or bool(mask[token_id >> 3] >> (token_id & 7) & 1)


def _with(mask: bytes | None, token_id: int) -> bytes | None:
    """`mask`, and the token beside it."""
    if mask is None:
        return None
    place = token_id >> 3
    return mask[:place] + bytes([mask[place] | 1 << (token_id & 7)]) + mask[place + 1 :]
