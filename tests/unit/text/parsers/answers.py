"""Random calls, cuts of a text, and what a parser makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from inflight.runtime.text.parsers.parts import Content, OutputParser, Reasoning, ToolCallArguments, ToolCallStart
from inflight.runtime.text.parsers.tool_format import Tool

# What is likeliest to be taken for something else.
ODD = ['"', "\\", "{", "}", "[", "]", "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<|python_tag|>"]
ODD += ["<parameter=a>", "</parameter>", "</arg_value>"]
ODD += ["ü", "日本", "🎉", " ", "\n", "\t", ",", ":", ";", "'", "null", "a", "Z", "0", "<", ">", "|", "=", "(", ")"]

TOOLS = [
    Tool("get_weather", {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}),
    Tool("look-up.all", {"type": "object", "properties": {"query": {"type": "object"}, "note": {"type": "string"}}}),
]


def odd_text(rng: np.random.Generator, most: int = 12) -> str:
    return "".join(ODD[place] for place in rng.integers(len(ODD), size=rng.integers(most + 1)))


def odd_value(rng: np.random.Generator, depth: int = 3) -> Any:
    """Any value of JSON."""
    kinds: list[Callable[[], Any]] = [
        lambda: odd_text(rng),
        lambda: int(rng.integers(-1000, 1000)),
        lambda: float(rng.normal()),
        lambda: [None, True, False][rng.integers(3)],
    ]
    if depth:
        kinds += [
            lambda: [odd_value(rng, depth - 1) for _ in range(rng.integers(4))],
            lambda: {odd_text(rng): odd_value(rng, depth - 1) for _ in range(rng.integers(4))},
        ]
    return kinds[rng.integers(len(kinds))]()


def random_call(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """A call to one of TOOLS; its arguments are of their schemas."""
    if rng.random() < 0.5:
        given: dict[str, Any] = {"city": odd_text(rng), "days": int(rng.integers(-9, 9))}
        name = "get_weather"
    else:
        given = {"query": {odd_text(rng): odd_value(rng) for _ in range(rng.integers(3))}, "note": odd_text(rng)}
        name = "look-up.all"
    return name, {key: value for key, value in given.items() if rng.random() < 0.8}


def cuts(rng: np.random.Generator, text: str) -> Iterator[str]:
    """`text` in pieces of random lengths, from single characters to all of it."""
    most = int(rng.choice([1, 3, 10, 1000]))
    at = 0
    while at < len(text):
        end = at + int(rng.integers(1, most + 1))
        yield text[at:end]
        at = end


def read(parser: OutputParser, pieces: Iterator[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content, and the calls as names and arguments."""
    reasoning, content = "", ""
    calls: list[tuple[str, str]] = []
    parts = [part for piece in pieces for part in parser.push(piece)] + list(parser.finish())
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
            calls[-1] = (calls[-1][0], calls[-1][1] + part.text)
    return reasoning, content, calls


def values(calls: list[tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in calls]
