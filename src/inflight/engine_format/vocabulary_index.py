"""A byte-pair vocabulary as a file that is mapped, not read: tokens found by their beginnings, merges by their result.

Little-endian 32-bit numbers, one array after another, then text:

    magic            8 bytes
    counts           tokens, ids (the largest + 1), merges, bytes of the description
    starts           tokens + 1: where each token begins among the token bytes; tokens are sorted by their UTF-8
    ids              tokens: the id of each
    places           ids: which token an id is, or NONE
    first_merges     ids + 1: where the merges that make an id begin
    merges           merges x (rank, left id, right id), grouped by the id they make
    token bytes      all tokens, UTF-8
    description      JSON: the rest of tokenizer.json
"""

from __future__ import annotations

import json
import mmap
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

INDEX_NAME = "vocabulary.index"
_MAGIC = b"inflvoc1"
_NONE = 0xFFFFFFFF
_WORD = 4


class VocabularyIndex:
    """The index at `path`. Raises ValueError when the file is none, OSError when it cannot be mapped."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view, start = memoryview(self._bytes), len(_MAGIC) + 4 * _WORD
        if sys.byteorder != "little" or len(view) < start or bytes(view[: len(_MAGIC)]) != _MAGIC:
            raise ValueError(f"{path} is no vocabulary index of this machine's byte order.")
        tokens, ids, merges, description = view[len(_MAGIC) : start].cast("I")
        lengths = (tokens + 1, tokens, ids, ids + 1, 3 * merges)
        bounds = [start + _WORD * count for count in accumulate(lengths, initial=0)]
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
        if not 0 <= token_id < len(self._places) or self._places[token_id] == _NONE:
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


def write_vocabulary_index(
    path: Path,
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    description: Mapping[str, Any],
) -> None:
    """vocabulary: token to id. merges: pairs of tokens whose concatenation is a token too, first ones first."""
    tokens = sorted((token.encode(), number) for token, number in vocabulary.items())
    ids = max(vocabulary.values(), default=-1) + 1
    places = array("I", [_NONE]) * ids
    for place, (_, number) in enumerate(tokens):
        places[number] = place
    made = sorted(
        (vocabulary[left + right], rank, vocabulary[left], vocabulary[right])
        for rank, (left, right) in enumerate(merges)
    )
    counts = array("I", [0]) * ids
    for result, *_ in made:
        counts[result] += 1
    text = b"".join(token for token, _ in tokens)
    tail = json.dumps(description, ensure_ascii=False, separators=(",", ":")).encode()
    arrays = (
        array("I", [len(tokens), ids, len(made), len(tail)]),
        array("I", accumulate((len(token) for token, _ in tokens), initial=0)),
        array("I", [number for _, number in tokens]),
        places,
        array("I", accumulate(counts, initial=0)),
        array("I", [number for merge in made for number in merge[1:]]),
    )
    with path.open("wb") as file:
        file.write(_MAGIC)
        for numbers in arrays:
            if sys.byteorder != "little":
                numbers.byteswap()
            file.write(numbers.tobytes())
        file.write(text + tail)
