"""The vocabulary index of an engine: with it a command encodes its first prompt without reading the whole tokenizer."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from inflight.engine_format.vocabulary_index import INDEX_NAME, MAGIC, NONE

# Smaller ones are read in a few milliseconds as they are.
WORTH_AN_INDEX = 16_384
# These only cut the text, or spell its bytes; a token is then a part of the text's spelling.
_CUTTING = ("Split", "ByteLevel", "Digits")


def index_vocabulary(directory: Path, at_least: int = WORTH_AN_INDEX) -> bool:
    """Write the index beside the tokenizer.json of `directory`; False where it is too small or can have none.

    It can have one when its model is plain byte-level BPE, and no added token could come out of the merges: then the
    tokens that a text can have are those that its bytes spell.
    """
    try:
        description = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
        parts = _parts(description, at_least)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # Missing, or of another form than the library writes: the runtime says so when it needs the tokenizer.
        return False
    if parts is None:
        return False
    vocabulary, merges = parts
    model = {**description["model"], "vocab": {}, "merges": []}
    rest = {**description, "model": model, "truncation": None, "padding": None}
    write_vocabulary_index(directory / INDEX_NAME, vocabulary, merges, rest)
    return True


def _parts(description: Mapping[str, Any], at_least: int) -> tuple[dict[str, int], list[tuple[str, str]]] | None:
    """Vocabulary and merges; None where there can be no index, or it is not worth one."""
    if not _can_be_indexed(description):
        return None
    vocabulary: dict[str, int] = description["model"]["vocab"]
    if len(vocabulary) < at_least:
        return None
    merges = [_pair(merge) for merge in description["model"]["merges"]]
    known = all({left, right, left + right} <= vocabulary.keys() for left, right in merges)
    return (vocabulary, merges) if known else None


def _can_be_indexed(description: Mapping[str, Any]) -> bool:
    model, normalizer = description.get("model") or {}, description.get("normalizer")
    stages = list(_stages(description.get("pre_tokenizer")))
    return (
        model.get("type") == "BPE"
        and not any(model.get(name) for name in ("dropout", "unk_token", "byte_fallback"))
        and not any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
        and (normalizer is None or normalizer.get("type") == "NFC")
        and all(stage.get("type") in _CUTTING and not stage.get("add_prefix_space") for stage in stages)
        and any(stage.get("type") == "ByteLevel" for stage in stages)
        and all(_is_apart(token, model["vocab"]) for token in description.get("added_tokens", ()))
    )


def _is_apart(token: Mapping[str, Any], vocabulary: Mapping[str, int]) -> bool:
    """An added token that the model does not know must not be one that the model would find if it knew it."""
    known = vocabulary.get(token["content"])
    return known == token["id"] if known is not None else len(token["content"]) > 1 and not token["single_word"]


def _stages(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return
    if pre_tokenizer.get("type") == "Sequence":
        for part in pre_tokenizer["pretokenizers"]:
            yield from _stages(part)
    else:
        yield pre_tokenizer


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge is two tokens, or in older files both in one string with a space between."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def write_vocabulary_index(
    path: Path,
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    description: Mapping[str, Any],
) -> None:
    """vocabulary: token to id. merges: pairs of tokens whose concatenation is a token too, first ones first."""
    tokens = sorted((token.encode(), number) for token, number in vocabulary.items())
    ids = max(vocabulary.values(), default=-1) + 1
    places = array("I", [NONE]) * ids
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
        file.write(MAGIC)
        for numbers in arrays:
            if sys.byteorder != "little":
                numbers.byteswap()
            file.write(numbers.tobytes())
        file.write(text + tail)
