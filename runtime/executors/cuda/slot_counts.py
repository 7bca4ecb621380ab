"""What is counted of each slot's sequence on the device, as this machine knows it.

A sequence's tokens are a list that only grows, by what was chosen for it; so the same list means the same sequence, and
how many of its tokens are counted is a number. Whoever has another list is new in its slot: after an admission, also of
one that was preempted and comes back elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inflight.runtime.scheduler.step import ScheduledSequence


@dataclass(frozen=True, slots=True)
class Uncounted:
    """The tokens of a row that its slot is to count first, of which the first `prompt` belong to the prompt; `anew`:
    what the slot has is another sequence's."""

    tokens: Sequence[int]
    prompt: int
    anew: bool


class SlotCounts:
    """Of sequences with penalties; slots of others are as they were."""

    def __init__(self) -> None:
        # The list of a slot's last such sequence, which is kept so that no other takes its identity, and how many of
        # its tokens are counted.
        self._kept: dict[int, tuple[Sequence[int], int]] = {}

    def missing(self, sequence: ScheduledSequence) -> int:
        """How many tokens of a row are not counted yet."""
        return sequence.start + len(sequence.token_ids) - (self._counted(sequence) or 0)

    def take(self, sequence: ScheduledSequence, newest: Callable[[int], int]) -> Uncounted:
        """What is to be counted in front of the row's choice, which the device counts itself; it is counted from now
        on. newest: the token that the step before has chosen at a place, should it not be counted yet."""
        end = sequence.start + len(sequence.token_ids)
        counted = self._counted(sequence)
        first = counted or 0
        known = end if sequence.follows < 0 else end - 1
        tokens = list(sequence.history[first:known])
        if known < end and first < end:
            tokens.append(newest(sequence.follows))
        self._kept[sequence.slot] = (sequence.history, end + 1)
        return Uncounted(tokens, max(sequence.prompt_length - first, 0), counted is None)

    def _counted(self, sequence: ScheduledSequence) -> int | None:
        """Tokens of the row's history; None: the slot has another's, or more than there are."""
        history, counted = self._kept.get(sequence.slot, ((), 0))
        end = sequence.start + len(sequence.token_ids)
        return counted if history is sequence.history and counted <= end else None
