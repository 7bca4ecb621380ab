"""The vocabulary index of an engine (engine_format/vocabulary_index.py), mapped and looked up."""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from inflight.engine_format.vocabulary_index import MAGIC, NONE, WORD


class VocabularyIndex:
    """The index at `path`. Raises ValueError when the file is none, OSError when it cannot be mapped."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view, start = memoryview(self._bytes), len(MAGIC) + 4 * WORD
        if sys.byteorder != "little" or len(view) < start or bytes(view[: len(MAGIC)]) != MAGIC:
            raise ValueError(f"{path} is no vocabulary index of this machine's byte order.")
        tokens, ids, merges, description = view[len(MAGIC) : start].cast("I")
        lengths = (tokens + 1, tokens, ids, ids + 1, 3 * merges)
        bounds = [start + WORD * count for count in accumulate(lengths, initial=0)]
        if bounds[-1] > len(view):
            raise ValueError(f"{path} is truncated.")
        self._starts, self._ids, self._places, self._first_merges, self._merges = (
            view[begin:end].cast("I") for begin, end in pairwise(bounds)
        )
        start = bounds[-1]
        if start + self._starts[-1] + description != len(view):
            raise ValueError(f"{path} is truncated.")
        self._text = view[start : start + self._starts[-1]]
        self.description: dict[str, Any] = json.loads(bytes(view[start + self._starts[-1] :]))

    def token(self, token_id: int) -> str | None:
        """The token of an id; None when there is none."""
        if not 0 <= token_id < len(self._places) or self._places[token_id] == NONE:
            return None
        return self._at(self._places[token_id]).decode()

    def token_id(self, token: str) -> int | None:
        key = token.encode("utf-8", errors="replace")
        place = self._first_from(key, 0)
        return self._ids[place] if place < len(self._ids) and self._at(place) == key else None

    def beginnings(self, text: str) -> Iterator[tuple[str, int]]:
        """(token, id) of all tokens that `text` begins with, shorter ones first."""
        place, key = 0, b""
        for length, character in enumerate(text, 1):
            key += character.encode()
            place = self._first_from(key, place)
            if place == len(self._ids):
                return
            found = self._at(place)
            if found == key:
                yield text[:length], self._ids[place]
            elif not found.startswith(key):
                return

    def merges(self, token_id: int) -> Iterator[tuple[int, int, int]]:
        """(rank, left id, right id) of the merges that make a token; a lower rank goes first."""
        for index in range(self._first_merges[token_id], self._first_merges[token_id + 1]):
            rank, left, right = self._merges[3 * index : 3 * index + 3]
            yield rank, left, right

    def _at(self, place: int) -> bytes:
        return bytes(self._text[self._starts[place] : self._starts[place + 1]])

    def _first_from(self, key: bytes, low: int) -> int:
        """The first place from `low` on whose token is not less than `key`. Near places are looked at first."""
        high, step = low, 1
        while high < len(self._ids) and self._at(high) < key:
            low, high, step = high + 1, high + step, 2 * step
        high = min(high, len(self._ids))
        while low < high:
            middle = (low + high) // 2
            if self._at(middle) < key:
                low = middle + 1
            else:
                high = middle
        return low
