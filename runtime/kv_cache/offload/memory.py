"""Copies of KV cache blocks in the memory of this process, which end with it."""

from __future__ import annotations

from collections.abc import Iterable


class MemoryStore:
    """As BlockStore, without files: at most `num_slots` copies, by their keys; the least recently used go first."""

    place = "memory"

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        # Least recently used first: a dict keeps the order.
        self._copies: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def __contains__(self, key: bytes) -> bool:
        return key in self._copies

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def outlives(self) -> bool:
        """Whether a later process finds the copies."""
        return False

    def put(self, key: bytes, data: bytes, rank: int = 0) -> None:
        """Keep a copy, as the one that was used last."""
        self._copies.pop(key, None)
        if len(self._copies) >= self._num_slots:
            del self._copies[next(iter(self._copies))]
        self._copies[key] = data

    def get(self, key: bytes) -> bytes | None:
        """The copy, or None where there is none."""
        return self._copies.get(key)

    def touch(self, keys: Iterable[bytes]) -> None:
        """These were used just now, in this order."""
        for key in keys:
            if (copy := self._copies.pop(key, None)) is not None:
                self._copies[key] = copy

    def close(self) -> None:
        """Free the memory. Calling it twice is harmless."""
        self._copies.clear()
