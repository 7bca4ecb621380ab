"""A KV cache that holds token ids: what a real one would have computed its keys and values from."""

from __future__ import annotations

from inflight.errors import EngineError
from inflight.runtime.scheduler.step import ScheduledSequence

_MASK = (1 << 64) - 1
_VOID = -1


def _chain(digest: int, token: int) -> int:
    """The digest of a prefix from that of the prefix one shorter: a polynomial hash with an odd multiplier."""
    return (digest * 6364136223846793005 + token + 1442695040888963407) & _MASK


class ShadowCache:
    """Per position of each block: the token written there, and the digest of all tokens up to it.

    As keys and values do, a digest depends on everything the writer saw before it.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        self._size = tokens_per_block
        self._tokens = [_VOID] * (num_blocks * tokens_per_block)
        self._digests = [0] * (num_blocks * tokens_per_block)

    def write(self, sequence: ScheduledSequence) -> None:
        """Write the tokens of the step at their positions."""
        position = sequence.start
        digest = self.digest(sequence, position - 1) if position else 0
        for token in sequence.token_ids:
            cell = self._cell(sequence, position)
            digest = _chain(digest, token)
            self._tokens[cell] = token
            self._digests[cell] = digest
            position += 1

    def digest(self, sequence: ScheduledSequence, position: int) -> int:
        """The digest of the tokens up to and with `position`."""
        return self._digests[self._cell(sequence, position)]

    def read(self, sequence: ScheduledSequence) -> list[int]:
        """All tokens that the sequence sees. Raises EngineError when a cell was not written in this very context."""
        tokens: list[int] = []
        digest = 0
        for position in range(sequence.start + len(sequence.token_ids)):
            cell = self._cell(sequence, position)
            digest = _chain(digest, self._tokens[cell])
            if self._tokens[cell] == _VOID or digest != self._digests[cell]:
                raise EngineError(
                    f"slot {sequence.slot}: block {cell // self._size} does not hold the sequence's position {position}"
                )
            tokens.append(self._tokens[cell])
        return tokens

    def _cell(self, sequence: ScheduledSequence, position: int) -> int:
        return sequence.block_table[position // self._size] * self._size + position % self._size
