"""A KV cache that holds token ids: what a real one would have computed its keys and values from."""

from __future__ import annotations

import struct
from itertools import accumulate

from inflight.errors import EngineError
from inflight.runtime.scheduler.step import ScheduledSequence

_MASK = (1 << 64) - 1


def _chain(digest: int, token: int) -> int:
    """The digest of a prefix from that of the prefix one shorter: a polynomial hash with an odd multiplier."""
    return (digest * 6364136223846793005 + token + 1442695040888963407) & _MASK


class ShadowCache:
    """Of each block: the tokens written there, the digest of all tokens before it, and up to each.

    As keys and values do, a digest depends on everything the writer saw before it. Within a block a token always
    follows the one before it, for whoever writes a token drops those behind it; so a context is as it was written when
    each of its blocks begins with the digest that the block before it ends with.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        self._size = tokens_per_block
        self._tokens: list[list[int]] = [[] for _ in range(num_blocks)]
        self._digests: list[list[int]] = [[0] for _ in range(num_blocks)]

    def write(self, sequence: ScheduledSequence) -> None:
        """Write the tokens of the step at their positions. Raises EngineError where nothing is before them."""
        position = sequence.start
        digest = self.digest(sequence, position - 1) if position else 0
        for token in sequence.token_ids:
            block, offset = sequence.block_table[position // self._size], position % self._size
            tokens, digests = self._tokens[block], self._digests[block]
            if offset == 0:
                digests[0] = digest
            digest = _chain(digest, token)
            tokens[offset:] = [token]
            digests[offset + 1 :] = [digest]
            position += 1

    def copy_out(self, block: int) -> bytes:
        """The digest before the block, how many tokens it has, and these, of 32 bits; the rest is 0."""
        tokens = self._tokens[block]
        rest = [0] * (self._size - len(tokens))
        return struct.pack(f"<QI{self._size}I", self._digests[block][0], len(tokens), *tokens, *rest)

    def copy_in(self, block: int, data: bytes) -> None:
        digest, count, *tokens = struct.unpack(f"<QI{self._size}I", data)
        self._tokens[block] = tokens[:count]
        self._digests[block] = list(accumulate(tokens[:count], _chain, initial=digest))

    def digest(self, sequence: ScheduledSequence, position: int) -> int:
        """The digest of the tokens up to and with `position`. Raises EngineError where none was written."""
        block, offset = sequence.block_table[position // self._size], position % self._size
        if offset >= len(self._tokens[block]):
            raise _wrong(sequence, block, position)
        return self._digests[block][offset + 1]

    def check(self, sequence: ScheduledSequence) -> None:
        """Raises EngineError when a position that the sequence sees was not written in this very context."""
        end, digest = sequence.start + len(sequence.token_ids), 0
        for first in range(0, end, self._size):
            block, count = sequence.block_table[first // self._size], min(self._size, end - first)
            digests = self._digests[block]
            if digests[0] != digest or len(digests) <= count:
                raise _wrong(sequence, block, first)
            digest = digests[count]

    def tokens(self, sequence: ScheduledSequence) -> list[int]:
        """All tokens that the sequence sees."""
        end = sequence.start + len(sequence.token_ids)
        blocks = sequence.block_table[: -(-end // self._size)]
        return [token for block in blocks for token in self._tokens[block]][:end]


def _wrong(sequence: ScheduledSequence, block: int, position: int) -> EngineError:
    return EngineError(f"slot {sequence.slot}: block {block} does not hold the sequence's position {position}")
