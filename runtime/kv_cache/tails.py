"""Which blocks begin with given tokens: how far a prefix goes on behind its last full block."""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections.abc import Sequence


class PrefixTails:
    """Blocks by the key of the block before them and by their own tokens, of which the first may be wanted.

    The blocks behind one prefix lie in the order of their tokens, so that the one with the longest common beginning is
    beside the place where the tokens that are looked for would be. Nothing here holds a block: who gives one up, or
    writes other tokens into it, removes it first.
    """

    def __init__(self) -> None:
        # Tokens as big-endian words, whose bytes have the order of their numbers.
        self._behind: dict[bytes, list[tuple[bytes, int]]] = {}
        self._places: dict[int, tuple[bytes, bytes]] = {}

    def add(self, parent: bytes, token_ids: Sequence[int], block: int) -> None:
        """`block` holds these tokens behind the prefix `parent`; what was known of it is forgotten."""
        self.remove(block)
        words = _words(token_ids)
        insort(self._behind.setdefault(parent, []), (words, block))
        self._places[block] = parent, words

    def remove(self, block: int) -> None:
        """Forget a block, if it is known."""
        if block not in self._places:
            return
        parent, words = self._places.pop(block)
        blocks = self._behind[parent]
        del blocks[bisect_left(blocks, (words, block))]
        if not blocks:
            del self._behind[parent]

    def find(self, parent: bytes, token_ids: Sequence[int]) -> tuple[int, int]:
        """The block behind `parent` that has most of the first of these tokens, and how many; (-1, 0): none has one."""
        words = _words(token_ids)
        blocks = self._behind.get(parent, [])
        place = bisect_left(blocks, (words,))
        beside = blocks[max(place - 1, 0) : place + 1]
        count, block = max(((_common(words, own), block) for own, block in beside), default=(0, -1))
        return (block, count) if count else (-1, 0)

    def __len__(self) -> int:
        return len(self._places)


def _common(one: bytes, other: bytes) -> int:
    """How many first words are the same."""
    length = min(len(one), len(other))
    differing = int.from_bytes(one[:length], "big") ^ int.from_bytes(other[:length], "big")
    return (8 * length - differing.bit_length()) // 32


def _words(token_ids: Sequence[int]) -> bytes:
    return struct.pack(f">{len(token_ids)}I", *token_ids)
