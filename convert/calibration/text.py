"""The text that a model is calibrated on, as sequences of token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.errors import InflightError, ModelError
from inflight.files.json_file import JsonError, parse_json, parse_json_lines

Tokens = npt.NDArray[np.int64]

# Prose and code that every installation has; a module's source is read and nothing of it is run.
_CODE = ("heapq", "ipaddress", "shutil", "statistics", "subprocess", "tarfile", "typing")
STANDARD_LIBRARY = "the Python standard library's topics and code"
_IDS_KEY = "token_ids"
_GREATEST_ID = 2**31 - 1
_TEXT_KEYS = (("messages",), ("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("text",))


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """`documents` in order, texts or token ids; `name` says where they are from, `sha256` is their digest. `records`:
    each document is one sequence; otherwise sequences are cut out of all of them.
    """

    name: str
    documents: tuple[str | tuple[int, ...], ...]
    records: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.documents).encode()).hexdigest()


def calibration_text(path: Path | None) -> CalibrationText:
    """The text of a file: .jsonl or .json with a record per line or in a list, anything else plain text; None: prose
    and code of the Python standard library. Raises InflightError for a file that holds none.
    """
    if path is None:
        return _standard_library()
    records = path.suffix in (".jsonl", ".json")
    try:
        data = path.read_bytes()
        documents = tuple(_records(path, data)) if records else (data.decode("utf-8"),)
    except (OSError, UnicodeDecodeError) as error:
        raise InflightError(f"{path} cannot be read as text: {error}") from error
    if not any(document.strip() if isinstance(document, str) else document for document in documents):
        raise InflightError(f"{path} holds no text to calibrate on.")
    return CalibrationText(path.name, documents, records)


def token_sequences(
    text: CalibrationText, tokenizer: Path, vocab_size: int, *, count: int, length: int, seed: int
) -> list[Tokens]:
    """At most `count` sequences of at most `length` token ids, chosen by `seed`. Raises ModelError where the directory
    `tokenizer` has no tokenizer.json for a text, InflightError for ids beyond the vocabulary.
    """
    encode = _encoder(tokenizer) if any(isinstance(document, str) for document in text.documents) else None
    encoded = [np.asarray(encode(each) if encode and isinstance(each, str) else each) for each in text.documents]
    encoded = [ids.astype(np.int64) for ids in encoded if len(ids)]
    if not encoded:
        raise InflightError(f"{text.name} holds no token to calibrate on.")
    greatest = max((int(ids.max()) for ids in encoded), default=0)
    if greatest >= vocab_size:
        raise InflightError(f"{text.name} has token {greatest}, beyond the model's vocabulary of {vocab_size}.")
    rng = np.random.default_rng(seed)
    if text.records:
        return [encoded[index][:length] for index in rng.permutation(len(encoded))[:count]]
    return [_window(encoded[index % len(encoded)], length, rng) for index in range(count)]


def _encoder(tokenizer: Path) -> Callable[[str], list[int]]:
    import tokenizers

    if not (tokenizer / "tokenizer.json").is_file():
        raise ModelError(
            "The model has no tokenizer, and the text that it is calibrated on needs one.",
            f'Give token ids with --calib-dataset FILE.jsonl, a record {{"{_IDS_KEY}": [1, 2]}} per line.',
        )
    backend: Any = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return lambda text: list(backend.encode(text).ids)


def _window(ids: Tokens, length: int, rng: np.random.Generator) -> Tokens:
    start = int(rng.integers(0, max(1, len(ids) - length + 1)))
    return ids[start : start + length]


def _standard_library() -> CalibrationText:
    import importlib.util
    from pydoc_data.topics import topics

    code = []
    for module in _CODE:
        found = importlib.util.find_spec(module)
        if found is not None and found.origin is not None:
            code.append(Path(found.origin).read_text(encoding="utf-8"))
    return CalibrationText(STANDARD_LIBRARY, ("\n".join(topics[key] for key in sorted(topics)), "\n".join(code)), False)


def _records(path: Path, data: bytes) -> Iterator[str | tuple[int, ...]]:
    try:
        lines = [record for _, record in parse_json_lines(data)] if path.suffix == ".jsonl" else None
        records = parse_json(data) if lines is None else lines
    except JsonError as error:
        raise InflightError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(records, list):
        raise InflightError(f"{path} holds no list of records.", 'Give one record per line, as {"text": "..."}.')
    for number, record in enumerate(records, 1):
        yield _record_text(path, number, record)


def _record_text(path: Path, number: int, record: Any) -> str | tuple[int, ...]:
    if isinstance(record, str):
        return record
    ids = record.get(_IDS_KEY) if isinstance(record, dict) and not record.keys() & {"question", "text"} else None
    if isinstance(ids, list) and all(type(each) is int and 0 <= each <= _GREATEST_ID for each in ids):
        return tuple(ids)
    for keys in _TEXT_KEYS if isinstance(record, dict) else ():
        if all(key in record for key in keys):
            parts = [record[key] for key in keys]
            if keys == ("messages",) and isinstance(parts[0], list):
                parts = [_content(turn.get("content")) for turn in parts[0] if isinstance(turn, dict)]
            if any(isinstance(part, str) for part in parts):
                return "\n".join(part for part in parts if isinstance(part, str))
    names = "; ".join(" and ".join(keys) for keys in (*_TEXT_KEYS, (_IDS_KEY,)))
    raise InflightError(f"{path}, record {number}, is no text.", f"A record is a string, or has the keys {names}.")


def _content(given: Any) -> Any:
    """The text of a message, which may be a list of parts, of which some are no text."""
    if not isinstance(given, list):
        return given
    texts = [part.get("text") for part in given if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
