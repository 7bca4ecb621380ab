"""The openai package in the ways that its documentation shows, beside plain calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.endpoint.conftest import MODEL
from tests.endpoint.openai_api.test_openai_api import metric
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

MESSAGES: list[Any] = [{"role": "user", "content": "a lazy fox and 東京 👩‍👩‍👧 \x00 \u202eabc"}]
LONG: dict[str, Any] = {"max_tokens": 60_000, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(shim: str) -> Any:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as opened:
        yield opened


def asynchronous(shim: str, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0, **{"timeout": PATIENCE_S, **more})


def running(shim: str) -> float:
    return metric(shim, "inflight_requests_running")


def test_raw_and_streaming_responses_are_those_of_plain_calls(client: Any) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 7, "seed": 5}
    plain = client.chat.completions.create(**asked)
    raw = client.chat.completions.with_raw_response.create(extra_headers={"X-Request-Id": "mine"}, **asked)
    assert (raw.status_code, raw.request_id) == (200, "mine")
    assert raw.parse().choices == plain.choices
    with client.chat.completions.with_streaming_response.create(stream=True, **asked) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == plain.choices[0].message.content


def test_the_helper_for_streams_gathers_the_whole_answer(client: Any) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "seed": 5, "n": 2, "temperature": 1}
    for seed in range(20):  # The helper refuses an answer that ends at max_tokens.
        whole = client.chat.completions.create(**{**asked, "seed": seed}, max_tokens=200)
        if {choice.finish_reason for choice in whole.choices} == {"stop"}:
            break
    else:
        raise AssertionError("no two answers ended by themselves")
    with client.chat.completions.stream(
        **{**asked, "seed": seed}, max_tokens=200, stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            pass
        found = stream.get_final_completion()
    assert [c.message.content for c in found.choices] == [c.message.content for c in whole.choices]
    assert found.usage.completion_tokens == whole.usage.completion_tokens


def test_a_client_whose_time_is_over_leaves_nothing_running(shim: str, client: Any) -> None:
    for timeout in (httpx.Timeout(PATIENCE_S, read=0.05), 0.05):
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=timeout).completions.create(model=MODEL, prompt="fox", **LONG)
    assert eventually(lambda: running(shim) == 0)


def test_cancelled_tasks_leave_and_the_others_are_answered(shim: str, rng: np.random.Generator) -> None:
    seeds = rng.integers(1 << 40, size=6).tolist()

    async def ask() -> tuple[list[Any], list[Any]]:
        async with asynchronous(shim) as client:

            async def short(seed: int) -> str:
                body: dict[str, Any] = {"model": MODEL, "prompt": f"fox {seed}", "max_tokens": 9, "seed": seed}
                return str((await client.completions.create(**body)).choices[0].text)

            left = [asyncio.create_task(client.completions.create(model=MODEL, prompt="a", **LONG)) for _ in range(9)]
            stream = await client.completions.create(model=MODEL, prompt="b", stream=True, **LONG)
            async for _ in stream:
                break
            for task in left:
                task.cancel()
            await stream.close()
            first = await asyncio.gather(*(short(seed) for seed in seeds))
            ended = await asyncio.gather(*left, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended)
            return list(first), [await short(seed) for seed in seeds]

    first, again = asyncio.run(ask())
    assert first == again
    assert eventually(lambda: running(shim) == 0)


def test_seeds_of_any_size_repeat_an_answer(client: Any) -> None:
    for seed in (0, -1, 2**31, 2**63, 2**64 - 1, 2**70):
        body: dict[str, Any] = {"model": MODEL, "prompt": "fox", "max_tokens": 12, "seed": seed, "temperature": 1}
        texts = {client.completions.create(**body).choices[0].text for _ in range(2)}
        assert len(texts) == 1, seed


def test_a_wrong_base_url_is_named(shim: str) -> None:
    for wrong, right in (("", "/v1/chat/completions"), ("/v1/v1", "/v1/chat/completions")):
        client = openai.OpenAI(base_url=shim + wrong, api_key="none", max_retries=0, timeout=PATIENCE_S)
        with client, pytest.raises(openai.NotFoundError, match=f"Did you mean {right}"):
            client.chat.completions.create(model=MODEL, messages=MESSAGES)
