"""The lines of a batch file: requests, and lines that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflight.errors import InflightError

_NAMES = ("custom_id", "method", "url", "body")
# As much of a client's text as a message quotes.
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line, counted from 1. `problem`: why it is no request; None for one."""

    number: int
    custom_id: str | None = None
    url: str = ""
    body: Any = None
    problem: str | None = None


def read_batch(path: Path) -> list[BatchLine]:
    """The lines that are not blank. Raises InflightError for a file that cannot be read, or has none."""
    try:
        lines = list(_lines(path.read_bytes()))
    except OSError as error:
        raise InflightError(f"{path} cannot be read: {error.strerror}.") from error
    if not lines:
        raise InflightError(f"{path} has no requests.", "Give a file with a JSON object in each line.")
    return lines


def _lines(content: bytes) -> Iterator[BatchLine]:
    seen: dict[str, int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        read = _read(number, line)
        if read.custom_id is not None and read.problem is None:
            first = seen.setdefault(read.custom_id, number)
            if first != number:
                problem = f"custom_id {read.custom_id[:_SHOWN]!r} is that of line {first}, too"
                read = BatchLine(number, problem=problem)
        yield read


def _read(number: int, line: bytes) -> BatchLine:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BatchLine(number, problem=f"it is no valid JSON: {error}")
    if not isinstance(value, dict):
        return BatchLine(number, problem="it is no JSON object")
    custom_id, method, url, body = (value.get(name) for name in _NAMES)
    if not isinstance(custom_id, str) or not custom_id:
        return BatchLine(number, problem="it has no custom_id, which is a string")
    unknown = sorted(set(value) - set(_NAMES))
    problem = None
    if unknown:
        problem = f"it has {unknown[0][:_SHOWN]!r}, which no request has; these are {', '.join(_NAMES)}"
    elif method not in ("POST", None):
        problem = f"its method is {str(method)[:_SHOWN]!r}; requests are sent with POST"
    elif not isinstance(url, str) or not url.startswith("/"):
        problem = "it has no url, which is a path such as /v1/chat/completions"
    elif not isinstance(body, dict):
        problem = "it has no body, which is a JSON object"
    elif body.get("stream"):
        problem = "its body asks for a stream, of which a file has none"
    return BatchLine(number, custom_id, str(url), body, problem)
