"""The tensors of the model `pooling`: texts, or token ids of several texts one behind the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from inflight.errors import RequestError, placed
from inflight.runtime.loading.task import other_task
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import Floats
from inflight.triton_backend.wire.request_tensors import Array

POOLED, NUM_TOKENS, EACH_TOKEN = "pooled_output", "num_input_tokens", "each_token"

# The two ways to give texts.
_STRINGS = ("text_input", "text_pair")
_IDS = ("input_ids", "input_lengths", "token_type_ids")


def id_tensors(texts: Sequence[TokenizedText]) -> dict[str, Array]:
    """What a client sends that has tokenized the texts itself."""
    ids = [token for text in texts for token in text.token_ids]
    types = [kind for text in texts for kind in text.token_types]
    tensors = {"input_ids": ids, "input_lengths": [len(text.token_ids) for text in texts]}
    if types:
        tensors["token_type_ids"] = types
    found: dict[str, Array] = {name: np.array(values, np.int32) for name, values in tensors.items()}
    # A request is of one kind.
    return found | ({EACH_TOKEN: np.array([True])} if any(text.each_token for text in texts) else {})


def read_texts(tensors: Mapping[str, Array], reader: TextReader) -> list[TokenizedText]:
    """The texts of a request; none where its tensors are empty. Raises RequestError, also for a tensor that would have
    no effect."""
    found = _read(tensors, reader)
    asked = EACH_TOKEN in tensors and bool(tensors[EACH_TOKEN].reshape(-1)[:1].any())
    if not asked or reader.facts.task == "token_classify":
        return found
    if reader.facts.task != "embed":
        raise other_task(reader.facts)
    reader.check_each_token()
    return [replace(text, each_token=True) for text in found]


def _read(tensors: Mapping[str, Array], reader: TextReader) -> list[TokenizedText]:
    strings, ids_given = ([name for name in names if name in tensors] for names in (_STRINGS, _IDS))
    if strings and ids_given:
        raise RequestError(
            f"{strings[0]} and {ids_given[0]} are two ways to give a text; send text_input, or input_ids."
        )
    if "text_input" not in tensors and "input_ids" not in tensors:
        raise RequestError("There is no text.", "Send text_input, or input_ids with input_lengths.")
    if strings:
        return _read_strings(_strings(tensors, "text_input"), tensors, reader)
    ids, lengths = tensors["input_ids"], tensors.get("input_lengths")
    flat = ids.reshape(-1)
    counts = [len(flat)] if lengths is None else [int(count) for count in lengths.reshape(-1)]
    types = tensors.get("token_type_ids")
    if min(counts, default=0) < 0 or sum(counts) != len(flat) or (types is not None and types.size != len(flat)):
        raise RequestError(
            f"input_lengths has {sum(counts)} tokens and input_ids {len(flat)}; they and token_type_ids must agree."
        )
    return _cut(flat.tolist(), [] if types is None else types.reshape(-1).tolist(), counts, reader, _truncate(tensors))


def pooled_tensors(vectors: Sequence[Floats], texts: Sequence[TokenizedText], size: int) -> dict[str, Array]:
    """The answer: float32 [texts, size], or where each token was asked for [tokens of all texts, size], and the tokens
    of each text."""
    rows = np.concatenate([np.atleast_2d(each) for each in vectors]) if vectors else np.zeros((0, size), np.float32)
    return {POOLED: rows, NUM_TOKENS: np.array([len(text.token_ids) for text in texts], np.int32)}


def _read_strings(texts: list[str], tensors: Mapping[str, Array], reader: TextReader) -> list[TokenizedText]:
    pairs, truncate = _strings(tensors, "text_pair"), _truncate(tensors)
    if not pairs:
        prompt = reader.prompt(None)
        found = []
        for place, text in _placed("text_input", texts):
            with placed(place):
                found.append(reader.text(text, truncate=truncate, prompt=prompt))
        return found
    if len(texts) not in (1, len(pairs)):
        raise RequestError(f"text_input has {len(texts)} texts and text_pair {len(pairs)}: one, or as many.")
    firsts = texts * len(pairs) if len(texts) == 1 else texts
    found = []
    for first, (place, second) in zip(firsts, _placed("text_pair", pairs), strict=True):
        with placed(place):
            found.append(reader.pair(first, second, truncate=truncate))
    return found


def _placed(name: str, texts: Sequence[str]) -> Iterator[tuple[str | None, str]]:
    """The texts with what messages call their places: one that is alone has none."""
    for index, text in enumerate(texts):
        yield (f"{name}[{index}]" if len(texts) > 1 else None), text


def _cut(
    ids: list[int], types: list[int], counts: list[int], reader: TextReader, truncate: int | None
) -> list[TokenizedText]:
    found, start = [], 0
    kinds = reader.facts.token_types
    if types and not 0 <= min(types) <= max(types) < max(1, kinds):
        raise RequestError(f"token_type_ids may be 0 to {max(1, kinds) - 1}.")
    for index, count in enumerate(counts):
        with placed(f"input_lengths[{index}]" if len(counts) > 1 else None):
            text = reader.ids(ids[start : start + count], truncate=truncate)
        own = tuple(types[start : start + len(text.token_ids)]) if kinds > 1 else ()
        found.append(replace(text, token_types=own))
        start += count
    return found


def _strings(tensors: Mapping[str, Array], name: str) -> list[str]:
    tensor = tensors.get(name)
    try:
        return [] if tensor is None else [bytes(value).decode() for value in tensor.reshape(-1)]
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not valid UTF-8: {error}") from error


def _truncate(tensors: Mapping[str, Array]) -> int | None:
    tensor = tensors.get("truncate_prompt_tokens")
    return None if tensor is None or tensor.size == 0 else int(tensor.reshape(-1)[0])
