"""Parts joined, and texts cut at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from inflight.runtime.text.parsers.parts import (
    Content,
    OutputParser,
    Part,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
)


def joined(parts: Iterable[Part]) -> tuple[str, str, list[tuple[str, str]]]:
    """The reasoning, the content, and the calls as (name, arguments)."""
    reasoning = content = ""
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, Reasoning):
            reasoning += part.text
        elif isinstance(part, Content):
            content += part.text
        elif isinstance(part, ToolCallStart):
            assert part.index == len(calls)
            calls.append((part.name, ""))
        else:
            assert isinstance(part, ToolCallArguments) and part.index == len(calls) - 1
            calls[part.index] = (calls[part.index][0], calls[part.index][1] + part.text)
    return reasoning, content, calls


def parse(parser: OutputParser, pieces: Iterable[str]) -> tuple[str, str, list[tuple[str, str]]]:
    parts = [part for piece in pieces for part in parser.push(piece)]
    return joined([*parts, *parser.finish()])


def cut(text: str, rng: np.random.Generator) -> list[str]:
    """`text` in pieces: single characters, or a few at random places."""
    if rng.integers(3) == 0:
        return list(text)
    places = sorted(int(place) for place in rng.integers(0, len(text) + 1, int(rng.integers(0, 12))))
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


def soup(rng: np.random.Generator, pieces: list[str], count: int = 12) -> str:
    """Markers, parts of markers and other text in a random order."""
    parts = [piece[: int(rng.integers(1, len(piece) + 1))] for piece in pieces if piece]
    words = [*pieces, *parts, " ", "\n", "ab", "é"]
    return "".join(str(words[int(rng.integers(len(words)))]) for _ in range(int(rng.integers(0, count))))


_ODD = [*"\"'\\{}[],:()=\n\t é日😀<>|a"]


def random_value(rng: np.random.Generator, depth: int = 2, markers: list[str] | None = None) -> Any:
    """A value of JSON; its strings have odd characters, and at times one of `markers`."""
    kind = int(rng.integers(8 if depth else 6))
    if kind == 7:
        return random_object(rng, depth - 1, markers)
    if kind == 6:
        return [random_value(rng, depth - 1, markers) for _ in range(int(rng.integers(0, 4)))]
    if kind == 5:
        return random_text(rng, markers)
    return (None, True, False, int(rng.integers(-(10**6), 10**6)), float(rng.integers(-999, 999)) / 8)[kind]


def random_text(rng: np.random.Generator, markers: list[str] | None = None) -> str:
    words = [*_ODD, *(markers or [])]
    return "".join(words[int(rng.integers(len(words)))] for _ in range(int(rng.integers(0, 9))))


def random_object(rng: np.random.Generator, depth: int = 2, markers: list[str] | None = None) -> dict[str, Any]:
    return {f"key_{index}": random_value(rng, depth, markers) for index in range(int(rng.integers(0, 4)))}
