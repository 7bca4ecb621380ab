"""Reading JSON that others wrote: any bytes are either a value that everything here can work with, or a JsonError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inflight.errors import InflightError
from inflight.files.stand_in import START_BYTES, refuse_stand_in

# Deeper than any file of a model; code that walks a value calls itself at every level.
MOST_LEVELS = 100
# More than any count or size has, and few enough for a float and for a message.
MOST_DIGITS = 40


class JsonError(ValueError):
    """Why bytes are not JSON, as the end of a sentence: "is not valid JSON: ..."."""


def parse_json(data: bytes) -> Any:
    """The value of a JSON document (RFC 8259, UTF-8).

    Raises JsonError for what is not one, and for what Python would let through: integers of more than MOST_DIGITS,
    names that an object has twice, half surrogate pairs (no file can hold them), more levels than MOST_LEVELS. NaN and
    infinities are read, as transformers writes them; who uses a number says which it may be, and names its key.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_int=_int, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise JsonError(f"it has more than {MOST_LEVELS} levels") from error
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(str(error)) from error
    _check_levels(value)
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value)
    return value


def parse_json_lines(data: bytes) -> Iterator[tuple[int, Any]]:
    """The number of each line that is not blank, from 1, and its value, as parse_json reads it.

    Lines end where bytes say so: strings may hold what Unicode counts as the end of one. Raises JsonError, which says
    the line.
    """
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except JsonError as error:
                raise JsonError(f"line {number}: {str(error).replace('line 1 column', 'column')}") from error


def read_json(path: Path, kind: type[InflightError], hint: str | None = None) -> Any:
    """The value of a JSON file. Raises `kind`, with `hint`, where it cannot be read or is not JSON."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return parse_json(data)
    except JsonError as error:
        refuse_stand_in(path, data[:START_BYTES], kind)
        raise kind(f"{path} is not valid JSON: {error}.", hint) from error


def read_json_object(path: Path, kind: type[InflightError], hint: str | None = None) -> dict[str, Any]:
    """The same of a file that holds an object. Raises `kind` where it holds something else."""
    value = read_json(path, kind, hint)
    if not isinstance(value, dict):
        raise kind(f"{path} does not hold a JSON object.", hint)
    return value


def _int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise JsonError(f"the number {digits[:MOST_DIGITS]}... is out of range")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"an object has {twice[:40]!r} twice")
    return value


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _contents(outer)]
        if not level:
            return
    raise JsonError(f"it has more than {MOST_LEVELS} levels")


def _contents(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [inner for inner in value.values() if isinstance(inner, dict | list)]
    if isinstance(value, list):
        return [inner for inner in value if isinstance(inner, dict | list)]
    return []


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise JsonError("a string has half a surrogate pair") from error
