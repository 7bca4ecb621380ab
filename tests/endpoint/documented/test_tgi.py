"""What TGI's documentation does with the openai package, huggingface_hub and plain HTTP: the same calls, other words.

Pages: quick tour, consuming TGI, messages API, streaming, guidance.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.endpoint.tools.definitions import TOOLS, parameters_of
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

MESSAGES: list[Any] = [
    {"role": "system", "content": "You answer."},
    {"role": "user", "content": "What is a fox?"},
]


class Seen(BaseModel, extra="forbid"):
    place: str = Field(max_length=4)
    count: int = Field(ge=1, le=5)


def test_messages_with_the_openai_package(shim: str) -> None:
    client = OpenAI(base_url=f"{shim}/v1/", api_key="-", timeout=PATIENCE_S)
    whole = client.chat.completions.create(model="tgi", messages=MESSAGES, stream=False, seed=3, temperature=0)
    text = ""
    for message in client.chat.completions.create(model="tgi", messages=MESSAGES, stream=True, seed=3, temperature=0):
        text += message.choices[0].delta.content  # TGI's pages add every chunk
    assert text == whole.choices[0].message.content


def test_messages_with_huggingface_hub(shim: str) -> None:
    client = InferenceClient(base_url=f"{shim}/v1/", timeout=PATIENCE_S)
    partial = ""
    for chunk in client.chat.completions.create(messages=MESSAGES, stream=True, max_tokens=64):
        partial += chunk.choices[0].delta.content or ""
    last: Any = None
    for last in client.chat.completions.create(model="tgi", messages=MESSAGES, stream=True, max_tokens=8):
        assert last.choices[0].delta.content is not None
    assert last.choices[0].finish_reason


def test_generation(shim: str) -> None:
    body = {"inputs": "What is a fox?", "parameters": {"max_new_tokens": 20}}
    text = httpx.post(f"{shim}/generate", json=body, timeout=PATIENCE_S).json()["generated_text"]
    client = InferenceClient(shim, timeout=PATIENCE_S)
    assert "".join(client.text_generation("What is a fox?", max_new_tokens=20, stream=True)).startswith(text)

    async def stream() -> str:
        client = AsyncInferenceClient(shim, timeout=PATIENCE_S)
        found = await client.text_generation("What is a fox?", max_new_tokens=20, stream=True)
        return "".join([token async for token in found])

    assert asyncio.run(stream()).startswith(text)
    with httpx.stream("POST", f"{shim}/generate_stream", json=body, timeout=PATIENCE_S) as answer:
        events = [line for line in answer.iter_lines() if line]
    assert json.loads(events[-1].removeprefix("data:"))["generated_text"] == text


def test_grammars(tool_shim: str) -> None:
    client = InferenceClient(tool_shim, timeout=PATIENCE_S)
    schema = Seen.model_json_schema()
    without_type = {"properties": schema["properties"], "required": ["place", "count"], "additionalProperties": False}
    for value in (schema, without_type):
        grammar: Any = {"type": "json", "value": value}
        text = client.text_generation(f"as JSON: {value}", max_new_tokens=100, seed=42, grammar=grammar)
        assert Seen.model_validate_json(text)
    octet = r"(25[0-5]|2[0-4]\d|[01]?\d\d?)"
    grammar = {"type": "regex", "value": rf"({octet}\.){{3}}{octet}"}
    assert client.text_generation("An address?", seed=42, grammar=grammar).count(".") == 3
    body = {"inputs": "a fox", "parameters": {"repetition_penalty": 1.3, "grammar": {"type": "json", "value": schema}}}
    answer = httpx.post(f"{tool_shim}/generate", json=body, timeout=PATIENCE_S)
    assert Seen.model_validate_json(answer.json()["generated_text"])


def test_tools_and_a_choice_by_name(tool_shim: str) -> None:
    client = InferenceClient(tool_shim, timeout=PATIENCE_S)
    chat = client.chat_completion(messages=MESSAGES, tools=TOOLS, seed=42, max_tokens=100)
    assert chat.choices[0].message.content is not None
    openai = OpenAI(base_url=f"{tool_shim}/v1", api_key="_", timeout=PATIENCE_S)
    assert openai.chat.completions.create(
        model="tgi", messages=MESSAGES, tools=TOOLS, tool_choice="auto", max_tokens=30
    ).choices
    body = {"model": "tgi", "messages": MESSAGES, "tools": TOOLS, "tool_choice": "get_weather"}
    answer = httpx.post(f"{tool_shim}/v1/chat/completions", json=body, timeout=PATIENCE_S).json()
    ((call,), _) = (answer["choices"][0]["message"]["tool_calls"], answer["usage"])
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"]["name"] == "get_weather" and set(parameters_of("get_weather")["required"]) <= set(arguments)
    wrong = httpx.post(f"{tool_shim}/v1/chat/completions", json=body | {"tool_choice": "weather"}, timeout=PATIENCE_S)
    assert wrong.status_code == 400 and "nor the name of a tool" in wrong.json()["error"]["message"]
