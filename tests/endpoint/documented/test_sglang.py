"""What SGLang's documentation does with the openai package: the same calls, other words.

Pages: sending requests, OpenAI APIs (completions, embeddings), structured outputs, tool parser. Its pages of reasoning
are in tests/endpoint/reasoning.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from tests.endpoint.tools.definitions import TOOLS
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

ASKED: list[Any] = [{"role": "user", "content": "List 3 foxes."}]


@pytest.fixture
def client(shim: str) -> openai.Client:
    return openai.Client(base_url=f"{shim}/v1", api_key="None", timeout=PATIENCE_S, max_retries=0)


class Capital(BaseModel, extra="forbid"):
    name: str = Field(..., pattern=r"^\w{1,6}$", description="of a fox")
    population: int = Field(..., ge=0, le=99)


def test_requests_are_sent_in_three_ways(client: openai.Client, shim: str) -> None:
    answer = client.chat.completions.create(model="a/b", messages=ASKED, temperature=0, max_tokens=64)
    text = ""
    for chunk in client.chat.completions.create(model="a/b", messages=ASKED, temperature=0, max_tokens=64, stream=True):
        if chunk.choices[0].delta.content:
            text += chunk.choices[0].delta.content
    assert text == answer.choices[0].message.content
    body = {"model": "a/b", "messages": ASKED, "temperature": 0, "max_tokens": 64}
    plain = httpx.post(f"{shim}/v1/chat/completions", json=body, timeout=PATIENCE_S).json()
    assert plain["choices"][0]["message"]["content"] == text


def test_parameters(client: openai.Client) -> None:
    given: dict[str, Any] = {"temperature": 0.3, "top_p": 0.95, "n": 1, "seed": 42}
    history: list[Any] = [*ASKED, {"role": "assistant", "content": "A fox."}, {"role": "user", "content": "More."}]
    chat = client.chat.completions.create(
        model="a/b", messages=history, max_tokens=16, presence_penalty=0.2, frequency_penalty=0.2, **given
    )
    assert chat.usage
    several = client.completions.create(
        model="a/b", prompt="A fox", temperature=0.8, max_tokens=15, n=2, stop=["\n\n", "THE END"], seed=7
    )
    assert len(several.choices) == 2
    bias: Any = {"12": 50, "13": -50, "14": 25}
    assert client.completions.create(model="a/b", prompt="A", max_tokens=20, temperature=0.7, logit_bias=bias).usage
    assert client.chat.completions.create(
        model="a/b", messages=ASKED, max_tokens=20, temperature=0.7, logit_bias=bias
    ).usage


def test_structured_outputs(tool_shim: str) -> None:
    client = openai.Client(base_url=f"{tool_shim}/v1", api_key="None", timeout=PATIENCE_S, max_retries=0)

    def ask(**more: Any) -> str:
        answer = client.chat.completions.create(model="a/b", messages=ASKED, temperature=0, max_tokens=128, **more)
        return answer.choices[0].message.content or ""

    schema = {"name": "foo", "schema": Capital.model_json_schema()}
    assert Capital.model_validate_json(ask(response_format={"type": "json_schema", "json_schema": schema}))
    ebnf = 'root ::= city | city " is " city\ncity ::= "Fox" | "Dog"\n'
    assert ask(extra_body={"ebnf": ebnf}).split(" is ")[0] in ("Fox", "Dog")
    assert ask(extra_body={"regex": "(Fox|Dog)"}) in ("Fox", "Dog")
    tag = {"begin": "<function=f>", "end": "</function>"}
    old = {"structures": [{**tag, "schema": {"type": "object"}}], "triggers": ["<function="]}
    new = {
        "type": "triggered_tags",
        "triggers": ["<function="],
        "tags": [{**tag, "content": {"type": "json_schema", "json_schema": {"type": "object"}}}],
        "at_least_one": False,
        "stop_after_first": False,
    }
    for value in (old, {"format": new}):
        assert ask(response_format={"type": "structural_tag", **value})


def test_tools(tool_shim: str) -> None:
    client = openai.OpenAI(api_key="None", base_url=f"{tool_shim}/v1", timeout=PATIENCE_S)
    model = client.models.list().data[0].id
    common: dict[str, Any] = {"model": model, "temperature": 0.5, "top_p": 0.95, "tools": TOOLS, "max_tokens": 900}
    messages: list[Any] = list(ASKED)
    forced: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(messages=messages, stream=False, tool_choice=forced, **common)
    messages.append(answer.choices[0].message)
    call = messages[-1].tool_calls[0]
    assert json.loads(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "85 degrees", "name": call.function.name}
    messages.append(result)
    names, arguments = [], []
    for chunk in client.chat.completions.create(messages=messages, stream=True, tool_choice="required", **common):
        delta = chunk.choices[0].delta
        if delta.tool_calls:
            names.append(delta.tool_calls[0].function.name)
            arguments.append(delta.tool_calls[0].function.arguments)
    assert names[0] in ("get_weather", "add", "now") and any(arguments)
    final = client.chat.completions.create(messages=messages, stream=False, **(common | {"max_tokens": 9}))
    assert final.choices[0].message.content is not None


def test_embeddings(embedding_shim: str) -> None:
    client = openai.Client(base_url=f"{embedding_shim}/v1", api_key="None", timeout=PATIENCE_S)
    text = client.embeddings.create(model="a/b", input="Once upon a time").data[0].embedding
    ids = httpx.post(f"{embedding_shim}/tokenize", json={"prompt": "Once upon a time"}, timeout=PATIENCE_S).json()
    by_ids = client.embeddings.create(model="a/b", input=ids["tokens"]).data[0].embedding
    assert text == pytest.approx(by_ids, abs=1e-6)
