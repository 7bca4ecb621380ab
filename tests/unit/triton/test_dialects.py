"""Blocks of an answer, and the shapes of errors by path."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from inflight.runtime.text.parsers.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallStart
from inflight.triton_backend.dialects.blocks import Begun, Block, Blocks, Ended, Grown
from inflight.triton_backend.dialects.routes import ERROR_SHAPES
from inflight.triton_backend.openai.errors import Problem

pytestmark = pytest.mark.unit

TEXTS = ("a", "fox", " ", "\n", "  \n", " b", "c ")


def random_parts(rng: np.random.Generator) -> list[Part]:
    """As parsers give them: arguments follow the start of their call."""
    parts: list[Part] = []
    calls = 0
    for _ in range(int(rng.integers(1, 12))):
        kind = int(rng.integers(3))
        texts = [TEXTS[int(rng.integers(len(TEXTS)))] for _ in range(int(rng.integers(1, 4)))]
        if kind == 0:
            parts += [Content(text) for text in texts]
        elif kind == 1:
            parts += [Reasoning(text) for text in texts]
        else:
            parts.append(ToolCallStart(calls, f"tool_{calls}", f"id_{calls}"))
            parts += [ToolCallArguments(calls, text) for text in texts]
            calls += 1
    return parts


def expected(parts: list[Part]) -> list[tuple[str, str, str]]:
    """Kind, name and text of each block: runs of one kind, without those of blanks alone behind the beginning."""
    runs: list[tuple[str, str, str]] = []
    for part in parts:
        if isinstance(part, ToolCallStart):
            runs.append(("call", part.name, ""))
        elif isinstance(part, ToolCallArguments):
            runs[-1] = (*runs[-1][:2], runs[-1][2] + part.text)
        else:
            kind = "text" if isinstance(part, Content) else "reasoning"
            if not runs or runs[-1][0] != kind:
                runs.append((kind, "", ""))
            runs[-1] = (kind, "", runs[-1][2] + part.text)
    kept = [run for run in runs if run[0] != "text" or run[2].strip()]
    return kept or [run for run in runs if run[0] == "text"][-1:]


def merged(runs: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Runs of reasoning with nothing but blanks between them are one block."""
    found: list[tuple[str, str, str]] = []
    for run in runs:
        if found and run[0] == "reasoning" == found[-1][0]:
            found[-1] = ("reasoning", "", found[-1][2] + run[2])
        else:
            found.append(run)
    return found


def test_blocks_are_the_runs_of_parts_however_they_are_cut(rng: np.random.Generator) -> None:
    for _ in range(300):
        parts = random_parts(rng)
        blocks = Blocks()
        events = []
        rest = list(parts)
        while rest:
            size = int(rng.integers(1, 4))
            events += list(blocks.push(rest[:size]))
            rest = rest[size:]
        events += list(blocks.finish())
        found = [(block.kind, block.name, block.text) for block in blocks.all]
        assert found == merged(expected(parts)), parts
        open_block: Block | None = None
        grown: dict[int, str] = {}
        for event in events:
            if isinstance(event, Begun):
                assert open_block is None and event.block.index == len(grown)
                open_block, grown[event.block.index] = event.block, ""
            elif isinstance(event, Grown):
                assert event.block is open_block and event.piece
                grown[event.block.index] += event.piece
            else:
                assert isinstance(event, Ended) and event.block is open_block
                open_block = None
        assert open_block is None and list(grown.values()) == [block.text for block in blocks.all]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ('{"a": [1, {"b": "c"}]}', {"a": [1, {"b": "c"}]}),
        ('{"a": 1, "b": [1, 2', {"a": 1, "b": [1, 2]}),
        ("{a: 1}", {"INVALID_JSON": "{a: 1}"}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
def test_arguments_as_an_object(text: str, arguments: Any) -> None:
    block = Block(0, "call")
    block.add(text)
    assert block.arguments() == arguments


@pytest.mark.parametrize(
    ("path", "keys", "statuses"),
    [
        ("/v1/messages", {"type", "error"}, (400, 429, 503)),
        ("/v1/messages/count_tokens", {"type", "error"}, (400, 429, 503)),
        ("/api/chat", {"error"}, (400, 429, 503)),
        ("/generate", {"error", "error_type"}, (422, 429, 424)),
        ("/", {"error", "error_type"}, (422, 429, 424)),
    ],
)
def test_errors_have_the_shape_of_their_path(path: str, keys: set[str], statuses: tuple[int, ...]) -> None:
    for status, expected_status in zip((400, 429, 503), statuses, strict=True):
        answer = ERROR_SHAPES.answer(path, Problem(status, "what is wrong", "place"), {"Retry-After": "1"})
        body = json.loads(bytes(answer.body))
        assert set(body) == keys and "what is wrong" in json.dumps(body)
        assert answer.status_code == expected_status and answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messagesx", "/apix", "/generatex", "/v1/responses"])
def test_other_paths_have_openais(path: str) -> None:
    body = json.loads(bytes(ERROR_SHAPES.answer(path, Problem(400, "wrong", "place", "code")).body))
    assert body == {"error": {"message": "wrong", "type": "invalid_request_error", "param": "place", "code": "code"}}
