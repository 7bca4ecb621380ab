"""The parts of a sequence of tokens: markers that are special tokens are read, and never shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers

from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.completion import Completion, RequestText
from inflight.runtime.text.parsers.answer import AnswerFormat, AnswerParts
from inflight.runtime.text.parsers.parts import Content, Part, ToolCallArguments, ToolCallStart
from inflight.runtime.text.parsers.tools.registry import find_tool_format
from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import byte_level
from tests.unit.text.parsers.answers import TOOLS, odd_text, random_call

pytestmark = pytest.mark.unit

MARKER = "<|python_tag|>"
FORM = find_tool_format("llama3_json")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    backend = byte_level()
    backend.add_special_tokens([tokenizers.AddedToken(each, special=True) for each in (MARKER, "<|other|>")])
    return Tokenizer(backend)


def answer(
    tokenizer: Tokenizer, text: str, rng: np.random.Generator, most_calls: int | None = None, **params: object
) -> tuple[str, list[list[str]], str]:
    """Content, calls and the visible text of `text`, whose tokens come a few at a time; the whole gives the same."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    asked = SamplingParams(max_tokens=None, **params)  # type: ignore[arg-type]
    form = AnswerFormat(lambda: FORM.parser(TOOLS), FORM.markers, most_calls)
    request, parts = (
        RequestText(tokenizer, asked, FORM.markers),
        AnswerParts(form, tokenizer, asked.skip_special_tokens),
    )
    whole, streamed = Completion(0), []
    at = 0
    while at < len(ids) or not ids:
        end = min(at + int(rng.integers(1, 6)), len(ids))
        delta = TokenDelta("r", 0, tuple(ids[at:end]), finish_reason="stop" if end == len(ids) else None)
        for news in request.push(delta):
            whole.add(news)
            streamed += parts.push(news)
        at = end
        if whole.finish_reason is not None:
            break
    at_once = AnswerParts(form, tokenizer, asked.skip_special_tokens).push(whole)
    assert joined(streamed) == joined(at_once)
    return *joined(streamed), whole.text


def joined(parts: list[Part]) -> tuple[str, list[list[str]]]:
    calls: list[list[str]] = []
    for part in parts:
        if isinstance(part, ToolCallStart):
            assert part.call_id is not None and part.call_id.startswith("call_")
            calls.append([part.name, ""])
        elif isinstance(part, ToolCallArguments):
            calls[-1][1] += part.text
    return "".join(part.text for part in parts if isinstance(part, Content)), calls


def test_a_special_marker_is_read_and_not_shown(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    for _ in range(30):
        name, arguments = random_call(rng)
        call = json.dumps({"name": name, "parameters": arguments}, ensure_ascii=False)
        content, calls, _ = answer(tokenizer, f"Well.{MARKER}{call}", rng)
        assert content == "Well." and [(each[0], json.loads(each[1])) for each in calls] == [(name, arguments)]


def test_a_special_marker_that_is_no_call_is_hidden_like_other_special_tokens(
    tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    for _ in range(30):
        before, after = odd_text(rng).replace(MARKER, "").replace("{", ""), odd_text(rng).replace(MARKER, "")
        text = f"a{before}{MARKER}-{after}<|other|>"
        assert answer(tokenizer, text, rng)[:2] == (f"a{before}-{after}", [])
        assert answer(tokenizer, text, rng, skip_special_tokens=False)[0] == text


def test_stop_strings_are_those_of_the_text_without_the_marker(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    text = f'one{MARKER}two{{"name": "get_weather", "parameters": {{"city": "three"}}}}'
    assert answer(tokenizer, text, rng, stop=["<|"])[0].startswith("onetwo")
    assert answer(tokenizer, text, rng, stop=["wo"])[0] == "onet"
    assert answer(tokenizer, text, rng, stop=[MARKER])[0] == "one"
    assert answer(tokenizer, text, rng, stop=[f"e{MARKER}t"])[0] == "on"


def test_calls_beyond_the_most_are_left_out(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    call = '{"name": "get_weather", "parameters": {}}'
    assert len(answer(tokenizer, "; ".join([call] * 3), rng)[1]) == 3
    assert len(answer(tokenizer, "; ".join([call] * 3), rng, most_calls=1)[1]) == 1
