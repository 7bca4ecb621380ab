"""A KV cache that holds token ids: what a real one would have computed its keys and values from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inflight.errors import EngineError
from inflight.runtime.scheduler.step import ScheduledSequence

_MASK = (1 << 64) - 1
_VOID = -1
_FACTOR, _TERM = 6364136223846793005, 1442695040888963407


def _chain(digest: int, token: int) -> int:
    """The digest of a prefix from that of the prefix one shorter: a polynomial hash with an odd multiplier."""
    return (digest * _FACTOR + token + _TERM) & _MASK


class ShadowCache:
    """Per position of each block: the token written there, and the digest of all tokens up to it.

    As keys and values do, a digest depends on everything the writer saw before it.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        self._size = tokens_per_block
        self._tokens: npt.NDArray[np.int64] = np.full((num_blocks, tokens_per_block), _VOID)
        self._digests: npt.NDArray[np.uint64] = np.zeros((num_blocks, tokens_per_block), np.uint64)

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
        return int(self._digests[self._cell(sequence, position)])

    def read(self, sequence: ScheduledSequence) -> list[int]:
        """All tokens that the sequence sees. Raises EngineError when a cell was not written in this very context."""
        length = sequence.start + len(sequence.token_ids)
        blocks = list(sequence.block_table[: -(-length // self._size)])
        tokens = self._tokens[blocks].ravel()[:length]
        digests = self._digests[blocks].ravel()[:length]
        # Each digest is that of its token and of the digest before it: then the last one is that of them all.
        before = np.concatenate([np.zeros(1, np.uint64), digests[:-1]])
        expected = before * np.uint64(_FACTOR) + tokens.astype(np.uint64) + np.uint64(_TERM)
        wrong = (tokens == _VOID) | (digests != expected)
        if wrong.any():
            position = int(wrong.argmax())
            block = blocks[position // self._size]
            raise EngineError(f"slot {sequence.slot}: block {block} does not hold the sequence's position {position}")
        return tokens.tolist()  # type: ignore[no-any-return]

    def _cell(self, sequence: ScheduledSequence, position: int) -> tuple[int, int]:
        return sequence.block_table[position // self._size], position % self._size
