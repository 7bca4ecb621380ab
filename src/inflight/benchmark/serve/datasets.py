"""Prompts: random ones, or the conversations of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.requests import Prompt
from inflight.errors import RequestError
from inflight.files.json_file import JsonError, parse_json_lines
from inflight.runtime.text.tokenizer import Tokenizer

# Ids that every vocabulary has, for servers whose tokenizer is not at hand.
_COMMON_VOCABULARY = 256
# Characters to a token, where there is no tokenizer to ask.
_CHARACTERS = 4


def make_prompts(options: ServeBenchOptions, tokenizer: Tokenizer | None, rng: np.random.Generator) -> list[Prompt]:
    """`options.num_prompts` prompts, fewer when the file has fewer. Raises RequestError when it is no dataset."""
    if options.dataset_name == "random":
        prefix = _random_ids(rng, options.random_prefix_len, tokenizer)
        return [_random(options, tokenizer, rng, prefix) for _ in range(options.num_prompts)]
    if options.dataset_path is None:
        raise RequestError(f"--dataset-name {options.dataset_name} needs a file.", "Name it with --dataset-path.")
    read = {"sharegpt": _sharegpt, "custom": _custom}[options.dataset_name]
    prompts = list(read(options.dataset_path, options, tokenizer))
    if not prompts:
        raise RequestError(f"{options.dataset_path} holds no prompt that can be used.")
    chosen = rng.permutation(len(prompts))[: options.num_prompts]
    return [prompts[index] for index in chosen]


def _random(
    options: ServeBenchOptions, tokenizer: Tokenizer | None, rng: np.random.Generator, prefix: tuple[int, ...]
) -> Prompt:
    """`prefix`, and random ids after it. Lengths are drawn from [length * (1 - ratio), length * (1 + ratio)]."""
    length = _around(rng, options.random_input_len, options.random_range_ratio)
    output_len = _around(rng, options.random_output_len, options.random_range_ratio)
    ids = prefix + _random_ids(rng, length, tokenizer)
    return Prompt(tokenizer.decode(ids) if tokenizer else _words(ids), ids, len(ids), output_len)


def _random_ids(rng: np.random.Generator, length: int, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    vocabulary = tokenizer.backend.get_vocab_size(with_added_tokens=False) if tokenizer else _COMMON_VOCABULARY
    return tuple(rng.integers(0, vocabulary, length).tolist())


def _around(rng: np.random.Generator, length: int, ratio: float) -> int:
    return int(rng.integers(max(1, int(length * (1 - ratio))), int(length * (1 + ratio)) + 1))


def _words(ids: tuple[int, ...]) -> str:
    """A word per id, for endpoints that take text alone."""
    return " ".join(f"{token:x}" for token in ids)


def _sharegpt(path: Path, options: ServeBenchOptions, tokenizer: Tokenizer | None) -> Iterator[Prompt]:
    """[{"conversations": [{"value": prompt}, {"value": answer}, ...]}, ...]: the first two turns, of which the answer
    gives the length to ask for. Conversations without two are passed over."""
    conversations = _read_json(path)
    if not isinstance(conversations, list):
        raise RequestError(f"{path} is not a list of conversations.")
    for entry in conversations:
        match entry:
            case {"conversations": [{"value": str(prompt)}, {"value": str(answer)}, *_]} if prompt and answer:
                yield _text_prompt(prompt, options.sharegpt_output_len or _count(answer, tokenizer), tokenizer)


def _custom(path: Path, options: ServeBenchOptions, tokenizer: Tokenizer | None) -> Iterator[Prompt]:
    """A JSON object a line: {"prompt": text}, with "output_tokens" where they differ."""
    try:
        entries = list(parse_json_lines(path.read_bytes()))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error}.") from error
    except JsonError as error:
        raise RequestError(f"{path} is not JSON lines: {error}.") from error
    for number, entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"]:
            raise RequestError(f'{path}, line {number}: it has no text under "prompt".')
        output_len = entry.get("output_tokens", options.custom_output_len)
        if type(output_len) is not int or output_len < 1:
            raise RequestError(f"{path}, line {number}: output_tokens is {output_len!r}, not a positive number.")
        yield _text_prompt(entry["prompt"], output_len, tokenizer)


def _text_prompt(text: str, output_len: int, tokenizer: Tokenizer | None) -> Prompt:
    ids = tuple(tokenizer.encode(text)) if tokenizer else None
    return Prompt(text, ids, len(ids) if ids is not None else _count(text, None), output_len)


def _count(text: str, tokenizer: Tokenizer | None) -> int:
    return max(1, len(tokenizer.encode(text)) if tokenizer else len(text) // _CHARACTERS)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not valid JSON: {error}.") from error
