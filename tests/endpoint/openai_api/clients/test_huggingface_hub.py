"""huggingface_hub's InferenceClient, given the URL alone."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import InferenceClient

from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

MESSAGES: list[Any] = [{"role": "user", "content": "fox"}]


@pytest.mark.parametrize("by", ["model", "base_url"])
def test_a_schema_is_followed(shim: str, by: str) -> None:
    """By `model` the client sends the schema in TGI's shape, by `base_url` in OpenAI's."""
    where: dict[str, Any] = {by: shim if by == "model" else f"{shim}/v1"}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"enum": ["red", 7]}}}
    client = InferenceClient(timeout=PATIENCE_S, **where)
    answer = client.chat_completion(MESSAGES, max_tokens=40, seed=4, response_format=wanted)
    assert (answer.choices[0].message.content or "").strip() in ('"red"', "7")


@pytest.mark.parametrize("by", ["model", "base_url"])
def test_chat_whole_and_streamed(shim: str, by: str) -> None:
    where: dict[str, Any] = {by: shim if by == "model" else f"{shim}/v1"}
    client = InferenceClient(timeout=PATIENCE_S, **where)
    answer = client.chat_completion(MESSAGES, max_tokens=9, seed=4)
    text = answer.choices[0].message.content
    chunks = list(client.chat_completion(MESSAGES, max_tokens=9, seed=4, stream=True))
    assert text == "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert answer.usage.prompt_tokens > 0
    messages = [*MESSAGES, {"role": "assistant", "content": text}, {"role": "user", "content": "and then?"}]
    assert client.chat.completions.create(messages=messages, max_tokens=3).choices[0].finish_reason
