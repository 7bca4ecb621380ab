"""The id format of stop_words_list and bad_words_list: INT32 [2, n].

Row 0 holds the token ids of all words one after the other, padded with 0; row 1 the end offset of each word, padded
with -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inflight.errors import RequestError

Words = tuple[tuple[int, ...], ...]


def read_words(name: str, table: npt.NDArray[np.int32] | None) -> Words:
    """The words of one request; `table` None means none. Raises RequestError when the offsets make no sense."""
    if table is None:
        return ()
    if table.ndim != 2 or table.shape[0] != 2:
        raise RequestError(f"{name} has shape {list(table.shape)} per request; it must be [2, n].")
    ids = [int(value) for value in table[0]]
    ends = [int(value) for value in table[1] if value >= 0]
    words = []
    start = 0
    for end in ends:
        if not start < end <= len(ids):
            raise RequestError(f"{name} has the end offsets {ends} for {len(ids)} ids; they must rise.")
        words.append(tuple(ids[start:end]))
        start = end
    return tuple(words)


def write_words(rows: Sequence[Words]) -> npt.NDArray[np.int32]:
    """INT32 [batch, 2, n] for the words of each request; n is 0 when no request has any."""
    flat = [[token for word in words for token in word] for words in rows]
    width = max((max(len(ids), len(words)) for ids, words in zip(flat, rows, strict=True)), default=0)
    table = np.zeros((len(rows), 2, width), dtype=np.int32)
    table[:, 1] = -1
    for row, (ids, words) in enumerate(zip(flat, rows, strict=True)):
        table[row, 0, : len(ids)] = ids
        table[row, 1, : len(words)] = np.cumsum([len(word) for word in words], dtype=np.int32)
    return table
