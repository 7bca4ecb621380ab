"""The block pool of the transformers target: token ids by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_VOID = -1


class TokenPool:
    """int64 [blocks, tokens_per_block]: the token ids whose keys and values, or state, a block stands for."""

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        self._size = tokens_per_block
        self._blocks = np.full((num_blocks, tokens_per_block), _VOID, np.int64)

    def write(self, block_table: Sequence[int], start: int, token_ids: Sequence[int]) -> None:
        """Positions start, start + 1, ... of a sequence."""
        places = np.arange(start, start + len(token_ids))
        self._blocks[np.asarray(block_table)[places // self._size], places % self._size] = token_ids

    def read(self, block_table: Sequence[int], count: int) -> list[int]:
        """The first `count` tokens of a sequence."""
        blocks = list(block_table[: -(-count // self._size)])
        tokens: list[int] = self._blocks[blocks].reshape(-1)[:count].tolist()
        return tokens
