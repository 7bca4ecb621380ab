"""What vLLM's documentation does with the openai package and with plain HTTP: the same calls, other words.

Pages: quickstart, OpenAI-compatible server, structured outputs, tool calling, responses; examples/online_serving.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import httpx
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.endpoint.conftest import MODEL
from tests.endpoint.tools.definitions import ADD, WEATHER
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.fixture
def client(shim: str) -> OpenAI:
    return OpenAI(api_key="EMPTY", base_url=f"{shim}/v1", timeout=PATIENCE_S, max_retries=0)


@pytest.fixture
def tool_client(tool_shim: str) -> OpenAI:
    return OpenAI(api_key="dummy", base_url=f"{tool_shim}/v1", timeout=PATIENCE_S, max_retries=0)


class Kind(str, Enum):
    fox = "fox"
    dog = "Dog"


class Animal(BaseModel, extra="forbid"):
    kind: Kind
    name: str = Field(max_length=5)


def test_the_quickstart(client: OpenAI, shim: str) -> None:
    model = client.models.list().data[0].id
    completion = client.completions.create(model=model, prompt="A fox is a")
    assert completion.choices[0].finish_reason in ("stop", "length")
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": "You answer."}, {"role": "user", "content": "Name a fox."}],
    )
    assert answer.choices[0].message.role == "assistant"
    for chunk in client.completions.create(model=model, prompt="A fox", echo=False, stream=True, max_tokens=9):
        assert chunk.choices[0].text is not None
    several = client.completions.create(model=model, prompt="A fox", echo=True, n=2, logprobs=3, max_tokens=4)
    assert all(choice.text.startswith("A fox") and choice.logprobs for choice in several.choices)
    by_curl = {"model": model, "prompt": "A fox is a", "max_tokens": 7, "temperature": 0}
    found = httpx.post(f"{shim}/v1/completions", json=by_curl, timeout=PATIENCE_S)
    assert found.json()["usage"]["completion_tokens"] <= 7


def test_extra_parameters_and_headers(client: OpenAI) -> None:
    ask = client.chat.completions.create
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "Is a fox good?"}]}]
    choice = ["good", "bad"]
    for extra in ({"guided_choice": choice}, {"structured_outputs": {"choice": choice}}):
        answer = ask(model=MODEL, messages=parts, extra_body=extra, extra_headers={"x-request-id": "judged-1"})
        assert answer.choices[0].message.content in choice and answer._request_id == "judged-1"
    assert ask(model=MODEL, messages=parts, max_tokens=3, extra_body={"top_k": 50}).usage
    counted = client.completions.create(model=MODEL, prompt="fox", max_tokens=2, extra_headers={"x-request-id": "c"})
    assert counted._request_id == "c"


@pytest.mark.parametrize("wrapped", [True, False])
def test_structured_outputs(tool_client: OpenAI, wrapped: bool) -> None:
    client = tool_client

    def ask(kind: str, value: Any, **more: Any) -> str:
        extra = {"structured_outputs": {kind: value}} if wrapped else {f"guided_{kind}": value}
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "An address of a fox?"}],
            extra_body={**extra, **more},
        )
        return answer.choices[0].message.content or ""

    address = ask("regex", r"\w{1,4}@\w{1,4}\.com\n", stop=["\n"])
    assert address.endswith(".com") and "@" in address
    assert Animal.model_validate_json(ask("json", Animal.model_json_schema()))
    gbnf = 'root ::= "SELECT " column " FROM t"\ncolumn ::= "a" | "b"\n'
    lark = 'start: "SELECT " column " FROM t"\n?column: "a" | "b"\n'
    for grammar in (gbnf, lark):
        assert ask("grammar", grammar) in ("SELECT a FROM t", "SELECT b FROM t")


def test_schemas_of_pydantic(tool_client: OpenAI) -> None:
    client = tool_client
    messages: Any = [{"role": "user", "content": "Make a fox."}]
    schema: Any = {"name": "animal", "schema": Animal.model_json_schema()}
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, response_format={"type": "json_schema", "json_schema": schema}
    )
    assert Animal.model_validate_json(answer.choices[0].message.content or "")
    parsed = client.beta.chat.completions.parse(model=MODEL, messages=messages, response_format=Animal)
    assert parsed.choices[0].message.parsed


def test_tools_are_called_answered_and_streamed(tool_client: OpenAI) -> None:
    client, tools = tool_client, [WEATHER, ADD]
    model = client.models.list().data[0].id
    messages: list[Any] = [
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "How warm is a fox?"},
    ]
    forced: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer: Any = client.chat.completions.create(messages=messages, model=model, tools=tools, tool_choice=forced)
    calls = answer.choices[0].message.tool_calls
    messages.append({"role": "assistant", "tool_calls": calls})
    for call in calls:
        arguments = json.loads(call.function.arguments)
        messages.append(
            {"role": "tool", "content": str(arguments), "tool_call_id": call.id, "name": call.function.name}
        )
    second = client.chat.completions.create(
        messages=messages, model=model, tools=tools, stream=False, max_tokens=8, tool_choice="auto"
    )
    assert second.choices[0].message.content is not None

    chunks: list[Any] = list(
        client.chat.completions.create(
            messages=messages, model=model, tools=tools, tool_choice="required", stream=True, max_tokens=900
        )
    )
    found: list[str] = []
    for chunk in chunks:
        for part in (chunk.choices[0].delta.tool_calls or [])[:1]:
            found += [""] * (part.index + 1 - len(found))
            found[part.index] += part.function.arguments or ""
    assert found and json.loads(found[0])


def test_responses_with_a_tool(tool_client: OpenAI) -> None:
    tool: Any = {"type": "function", "name": "get_weather", "strict": True, **_parameters()}
    given: list[Any] = [{"role": "user", "content": "How warm is a fox?"}]
    first: Any = tool_client.responses.create(model=MODEL, input=given, tools=[tool], tool_choice="required")
    call = first.output[0]
    assert set(json.loads(call.arguments)) == {"warm"}
    given += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "warm"}]
    second = tool_client.responses.create(model=MODEL, input=given, tools=[tool], max_output_tokens=9)
    assert isinstance(second.output_text, str)


def _parameters() -> dict[str, Any]:
    properties = {"warm": {"type": "boolean"}}
    return {
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": ["warm"],
            "additionalProperties": False,
        }
    }


def test_an_argument_of_the_client_in_a_body_is_named(shim: str) -> None:
    """A page shows it so with curl, and vLLM drops it there."""
    body = {"model": MODEL, "prompt": "fox", "extra_body": {"top_k": 3}}
    answer = httpx.post(f"{shim}/v1/completions", json=body, timeout=PATIENCE_S)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "extra_body")
    assert "argument of the openai package" in answer.json()["error"]["message"]


def test_a_misspelled_kind_is_guessed(client: OpenAI) -> None:
    with pytest.raises(Exception, match="Did you mean choice"):
        client.completions.create(model=MODEL, prompt="x", extra_body={"structured_outputs": {"choices": ["a"]}})


def test_embeddings(embedding_shim: str) -> None:
    client = OpenAI(api_key="EMPTY", base_url=f"{embedding_shim}/v1", timeout=PATIENCE_S)
    model = client.models.list().data[0].id
    found = client.embeddings.create(input=["A fox jumps", "A dog is lazy"], model=model)
    assert len(found.data) == 2
    short = client.embeddings.create(input=["A fox jumps"], model=model, dimensions=8)
    assert len(short.data[0].embedding) == 8
