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

build/vocabulary.py writes it, runtime/text/vocabulary_index.py reads it.
"""

from __future__ import annotations

INDEX_NAME = "vocabulary.index"
MAGIC = b"inflvoc1"
NONE = 0xFFFFFFFF
WORD = 4  # bytes of a number
