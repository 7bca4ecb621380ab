"""Sequences in the order in which they are served."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from operator import attrgetter

from inflight.runtime.scheduler.sequence import Sequence

_order = attrgetter("order")


class SequenceQueue:
    """Sequences sorted by `order` (priority, arrival, index). Adding and removing are a binary search and a memmove."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def first(self) -> Sequence:
        return self._sequences[0]

    @property
    def last(self) -> Sequence:
        return self._sequences[-1]

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Raises ValueError when the sequence is not there."""
        place = bisect_left(self._sequences, sequence.order, key=_order)
        if place == len(self._sequences) or self._sequences[place] is not sequence:
            raise ValueError("the sequence is not in this queue")
        del self._sequences[place]
