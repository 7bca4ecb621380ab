"""What the tests of Triton's own OpenAI frontend expect, where docs/migration.md does not say otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from tests.endpoint.conftest import MODEL
from tests.endpoint.tools.definitions import TOOLS
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

MESSAGES: list[Any] = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "What is a fox?"}]
# Of both routes, beside a bound that keeps the answers short.
TAKEN: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"max_tokens": 10},
    {"top_p": 0.9},
    {"frequency_penalty": 0.5},
    {"presence_penalty": 0.2},
    {"n": 1},
    {"stop": "."},
    {"stop": []},
    {"stop": [".", ","]},
    {"logit_bias": {"0": 0}},
    {"min_tokens": 16},
    {"ignore_eos": True},
]
WRONG: list[dict[str, Any]] = [
    {"temperature": -0.1},
    {"max_tokens": -1},
    {"top_p": 1.1},
    {"frequency_penalty": 3},
    {"frequency_penalty": -3},
    {"presence_penalty": 2.1},
    {"presence_penalty": -2.1},
    {"min_tokens": -1},
    {"ignore_eos": 123},
]


@pytest.fixture
def post(shim: str) -> Any:
    def post(route: str, **body: Any) -> httpx.Response:
        given = {"prompt": "What is a fox?"} if route == "completions" else {"messages": MESSAGES}
        return httpx.post(f"{shim}/v1/{route}", json={"model": MODEL, **given, **body}, timeout=PATIENCE_S)

    return post


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_parameters_are_taken_and_wrong_ones_named(post: Any, route: str) -> None:
    for asked in TAKEN:
        answer = post(route, **{"max_tokens": 24, **asked})
        assert answer.status_code == 200, asked
        usage = answer.json()["usage"]
        assert usage["prompt_tokens"] > 0 and usage["completion_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    for asked in WRONG:
        answer = post(route, **asked)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == next(iter(asked)), asked


def test_seeds_temperatures_and_bounds(post: Any) -> None:
    def text(**body: Any) -> str:
        return str(post("chat/completions", **{"max_completion_tokens": 60, **body}).json()["choices"][0]["message"])

    assert text(temperature=0) == text(temperature=0)
    assert text(seed=1, temperature=1) == text(seed=1, temperature=1) != text(seed=2, temperature=1)
    both = post("chat/completions", max_tokens=50, max_completion_tokens=1, ignore_eos=True).json()
    assert both["usage"]["completion_tokens"] == 1
    echoed = post("completions", echo=True, max_tokens=9).json()["choices"][0]["text"]
    assert echoed.startswith("What is a fox?")
    assert "What is a fox?" not in post("completions", echo=False, max_tokens=9).json()["choices"][0]["text"]


def test_messages_and_log_probabilities(post: Any) -> None:
    nothing: Any
    for nothing in ([], None):
        assert post("chat/completions", messages=nothing).status_code == 400
    for only in (MESSAGES[:1], [{"role": "user", "content": [{"type": "text", "text": "A fox?"}]}]):
        assert post("chat/completions", messages=only, max_tokens=4).status_code == 200
    (choice,) = post("chat/completions", logprobs=True, top_logprobs=2, max_tokens=4).json()["choices"]
    for token in choice["logprobs"]["content"]:
        assert len(token["top_logprobs"]) == 2 and isinstance(token["bytes"], list) and token["logprob"] <= 0
    assert post("chat/completions", logprobs=False, max_tokens=4).json()["choices"][0]["logprobs"] is None
    assert post("chat/completions", top_logprobs=2).status_code == 400
    found = post("completions", logprobs=3, max_tokens=4).json()["choices"][0]["logprobs"]
    assert len({len(found[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}) == 1


def test_streams_of_the_asynchronous_client(shim: str) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{shim}/v1", api_key="empty", timeout=PATIENCE_S) as client:
            body: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "seed": 0, "temperature": 0, "max_tokens": 16}
            whole = await client.chat.completions.create(**body)
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(
                    **body, stream=True, stream_options={"include_usage": True}
                )
            ]
            *parts, last = chunks
            assert not last.choices and last.usage == whole.usage and all(part.usage is None for part in parts)
            text = "".join(part.choices[0].delta.content or "" for part in parts)
            assert text == whole.choices[0].message.content
            assert parts[0].choices[0].delta.role == "assistant"
            assert [bool(part.choices[0].finish_reason) for part in parts].count(True) == 1
            with pytest.raises(openai.BadRequestError, match="stream_options"):
                await client.chat.completions.create(**body, stream_options={"include_usage": True})

    asyncio.run(ask())


def test_tools_and_choices_that_contradict_each_other(post: Any) -> None:
    unknown = {"type": "function", "function": {"name": "unknown"}}
    for asked in ({"tool_choice": "required"}, {"tool_choice": unknown, "tools": TOOLS}, {"tool_choice": unknown}):
        assert post("chat/completions", **asked).status_code == 400, asked
    assert post("chat/completions", tools=TOOLS, tool_choice="none", max_tokens=4).status_code == 200


def test_operations(shim: str) -> None:
    for path, status in (("/health/ready", 200), ("/metrics", 200), ("/v1/models", 200), ("/no-such", 404)):
        assert httpx.get(f"{shim}{path}", timeout=PATIENCE_S).status_code == status
    assert httpx.get(f"{shim}/v1/models/{MODEL}", timeout=PATIENCE_S).json()["id"] == MODEL
    assert httpx.get(f"{shim}/v1/chat/completions", timeout=PATIENCE_S).status_code == 405
