"""Accumulates the deltas of a request: joins those that wait, sums log probabilities, chooses the best of n.

Whatever leaves the engine goes through here: the LLM class, the OpenAI shim and the Triton models differ in what they
write, not in how they add up. `text/completion.py` goes on from here to text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol, TypeVar

from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.scheduler.step import TokenResult


def join_deltas(deltas: Sequence[TokenDelta]) -> TokenDelta:
    """Deltas of one sequence, at least one and in order, as one: only the last of a sequence can have ended it."""
    if len(deltas) == 1:
        return deltas[0]
    return replace(
        deltas[-1],
        token_ids=tuple(chain.from_iterable(delta.token_ids for delta in deltas)),
        logprobs=tuple(chain.from_iterable(delta.logprobs for delta in deltas)),
        prompt_logprobs=next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None),
        cached_tokens=next((delta.cached_tokens for delta in deltas if delta.cached_tokens is not None), None),
    )


class PendingDeltas:
    """What has come of a request's sequences and was not taken yet. Putting costs the same however much waits."""

    def __init__(self) -> None:
        self._pending: dict[int, list[TokenDelta]] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    def put(self, delta: TokenDelta) -> None:
        self._pending.setdefault(delta.index, []).append(delta)

    def take(self) -> list[TokenDelta]:
        """One delta for each sequence that has news, in the order in which they first had some."""
        pending, self._pending = self._pending, {}
        return [join_deltas(deltas) for deltas in pending.values()]


def add_logprobs(total: float | None, results: Iterable[TokenResult]) -> float | None:
    """The cumulative log probability `total` with those of more tokens; None as long as no token has one.

    Added one after the other, so that the sum is the same to the bit however the tokens were grouped: Python's own sum
    rounds another way, and best_of may hang on the last bit.
    """
    for result in results:
        total = result.logprob if total is None else total + result.logprob
    return total


class Ranked(Protocol):
    """A completion as far as choosing among several needs it."""

    @property
    def index(self) -> int: ...

    @property
    def cumulative_logprob(self) -> float | None: ...


RankedT = TypeVar("RankedT", bound=Ranked)


def best_of(completions: Sequence[RankedT], n: int) -> list[RankedT]:
    """The `n` of the highest cumulative log probability, best first, of equal ones that of the lowest index; all of
    them, as they are, if there are no more."""
    if len(completions) <= n:
        return list(completions)
    return sorted(completions, key=lambda each: (-(each.cumulative_logprob or 0.0), each.index))[:n]
