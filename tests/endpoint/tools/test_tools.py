"""Tools through real servers and the openai package, in both modes.

The engine says anything that it may (a null engine), so nothing but the grammars makes an answer call a tool.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest
from pydantic import BaseModel

from tests.endpoint.conftest import MODEL, generating_shim
from tests.endpoint.openai_api.test_openai_api import post
from tests.endpoint.tools.definitions import ADD, MESSAGES, NOW, TOOLS, WEATHER, parameters_of
from tests.engines.random_schemas import random_schema
from tests.engines.serving_engines import write_null_engine
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.fixture
def client(tool_shim: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tool_shim}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


@pytest.fixture
def ask(client: openai.OpenAI, rng: np.random.Generator) -> Any:
    def ask(**more: Any) -> Any:
        given = {"model": MODEL, "messages": MESSAGES, "max_tokens": 3000, "seed": int(rng.integers(1 << 30)), **more}
        return client.chat.completions.create(**given)

    return ask


def check_call(call: Any, tools: list[Any] = TOOLS) -> None:
    assert call.type == "function" and call.id.startswith("call_")
    schema = parameters_of(call.function.name, tools)
    jsonschema.validate(json.loads(call.function.arguments), schema, jsonschema.Draft202012Validator)


def named(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("name", ["get_weather", "add", "now"])
def test_a_named_tool_is_called_once(ask: Any, name: str) -> None:
    answer = ask(tools=TOOLS, tool_choice=named(name), n=3)
    assert len({call.id for choice in answer.choices for call in choice.message.tool_calls}) == 3
    for choice in answer.choices:
        (call,) = choice.message.tool_calls
        assert call.function.name == name and choice.message.content is None and choice.finish_reason == "stop"
        check_call(call)


def test_a_required_call_is_valid_and_may_be_one_of_several(ask: Any) -> None:
    answer = ask(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, n=4)
    for choice in answer.choices:
        (call,) = choice.message.tool_calls
        assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
        check_call(call)
    # Nothing ends the engine's answers but the grammar's bound.
    several = ask(tools=TOOLS, tool_choice="required").choices[0]
    for call in several.message.tool_calls[: None if several.finish_reason == "tool_calls" else -1]:
        check_call(call)
    assert len(several.message.tool_calls) > 1


def test_random_tools_are_called_as_their_schemas_say(ask: Any, rng: np.random.Generator) -> None:
    tools = [
        {"type": "function", "function": {"name": f"tool_{number}", "parameters": random_schema(rng), "strict": True}}
        for number in range(5)
    ]
    for choice in ask(tools=tools, tool_choice="required", parallel_tool_calls=False, n=6).choices:
        check_call(choice.message.tool_calls[0], tools)


def test_only_the_allowed_tools_are_called(ask: Any) -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("now"), named("add")]}}
    for choice in ask(tools=TOOLS, tool_choice=allowed, parallel_tool_calls=False, n=4).choices:
        assert choice.message.tool_calls[0].function.name in ("now", "add")


def test_a_stream_has_the_calls_of_the_whole_answer(ask: Any, rng: np.random.Generator) -> None:
    asked: dict[str, Any] = {
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": bool(rng.integers(2)),
        "n": 2,
        "logprobs": True,
        "max_tokens": 700,
        "seed": int(rng.integers(1 << 30)),
    }
    whole = ask(**asked)
    chunks = list(ask(stream=True, stream_options={"include_usage": True}, **asked))
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [each.choices[0] for each in chunks if each.choices and each.choices[0].index == choice.index]
        pieces = [call for each in mine for call in each.delta.tool_calls or ()]
        for index, call in enumerate(choice.message.tool_calls):
            first, *more = [piece for piece in pieces if piece.index == index]
            assert (first.type, first.function.name, first.function.arguments) == ("function", call.function.name, "")
            assert first.id and not any(piece.id or piece.function.name for piece in more)
            assert "".join(piece.function.arguments for piece in more) == call.function.arguments
        assert "".join(each.delta.content or "" for each in mine) == (choice.message.content or "")
        assert [each.finish_reason for each in mine if each.finish_reason] == [choice.finish_reason]
        entries = [entry for each in mine if each.logprobs for entry in each.logprobs.content]
        assert [each.token for each in entries] == [each.token for each in choice.logprobs.content]


def test_the_openai_packages_stream_helper_parses_the_arguments(client: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: str
        days: int

    tool = openai.pydantic_function_tool(Weather, name="weather")
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=3000
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert len(done) == 1
    if stream.get_final_completion().choices[0].finish_reason == "tool_calls":
        assert isinstance(done[0].parsed_arguments, Weather)


def test_a_call_that_is_cut_off_ends_with_length(ask: Any) -> None:
    choice = ask(tools=TOOLS, tool_choice=named("get_weather"), max_tokens=45).choices[0]
    assert choice.finish_reason == "length"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather" and call.function.arguments.startswith("{")


def test_where_the_model_may_choose_its_text_is_content(ask: Any) -> None:
    for asked in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        choice = ask(tools=TOOLS, max_tokens=20, **asked).choices[0]
        assert choice.message.content and choice.message.tool_calls is None and choice.finish_reason == "length"


def test_content_of_a_schema_or_calls(ask: Any, rng: np.random.Generator) -> None:
    """As OpenAI has it: a response_format is for content."""
    schema: dict[str, Any] = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    schema["additionalProperties"] = False
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    seen = set()
    for _ in range(4):
        asked: dict[str, Any] = {"response_format": shape, "parallel_tool_calls": False, "n": 4}
        for choice in ask(tools=TOOLS, temperature=1.0, **asked).choices:
            if choice.message.tool_calls:
                check_call(choice.message.tool_calls[0])
            else:
                jsonschema.validate(json.loads(choice.message.content), schema)
            seen.add(choice.finish_reason)
    assert seen <= {"tool_calls", "stop"}
    forced = ask(tools=TOOLS, tool_choice=named("now"), response_format=shape).choices[0]
    assert forced.message.tool_calls[0].function.name == "now"


def test_a_conversation_with_calls_goes_on(ask: Any) -> None:
    messages = list(MESSAGES)
    for _ in range(2):
        answer = ask(messages=messages, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
        message = answer.choices[0].message
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "42"} for call in message.tool_calls]
    messages.append({"role": "user", "content": [{"type": "text", "text": "and then?"}]})
    answer = ask(messages=messages, max_tokens=2, extra_body={"return_token_ids": True})
    assert answer.choices[0].message.content


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "Missing"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name", "1 to 128"),
    ({"tools": [NOW, ADD, NOW]}, "tools.2.function.name", "Two tools have the name 'now'"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type", "no functions"),
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tools": [NOW], "tool_choice": named("then")}, "tool_choice.function.name", "'then'.*: now"),
    ({"tools": [NOW], "tool_choice": "sometimes"}, "tool_choice", "'required'"),
    ({"tools": [NOW], "tool_choice": {"type": "function"}}, "tool_choice.function", "Missing"),
    ({"functions": [{"name": "f"}]}, "functions", "give them as tools"),
]
SCHEMAS: list[tuple[Any, str]] = [
    ({"type": "string"}, ".type"),
    ({"type": "object", "properties": {"a": {"type": "text"}}}, ".properties.a.type"),
    ({"type": "object", "properties": ["a"]}, ".properties"),
    ({"type": "object", "required": "a"}, ".required"),
    ({"type": "object", "required": True}, ".required"),
    ({"type": "object", "properties": {"a": {"type": "array", "items": 3}}}, ".properties.a.items"),
]


@pytest.mark.parametrize(("asked", "param", "words"), BAD)
def test_bad_tools_are_a_400_that_says_where(ask: Any, asked: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as refusal:
        ask(**asked)
    assert refusal.value.param == param


@pytest.mark.parametrize(("schema", "place"), SCHEMAS)
def test_a_bad_schema_is_a_400_that_says_where(ask: Any, schema: Any, place: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(tools=[NOW, {"type": "function", "function": {"name": "f", "parameters": schema}}])
    assert refusal.value.param == f"tools.1.function.parameters{place}"


def test_a_schema_that_can_never_be_met_is_refused_where_a_call_is_forced(ask: Any) -> None:
    never = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a"}}, "required": ["a"]}
    with pytest.raises(openai.BadRequestError, match="'f', /properties/a: unclosed group at character 1") as refusal:
        ask(tools=[NOW, {"type": "function", "function": {"name": "f", "parameters": never}}], tool_choice="required")
    assert refusal.value.param == "tools"


def called(arguments: Any) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ([called("{")], "messages.1.tool_calls.0.function.arguments"),
        ([called("[1]")], "messages.1.tool_calls.0.function.arguments"),
        ([{"role": "tool", "tool_call_id": "call_1", "content": "2"}], "messages.1.tool_call_id"),
        ([{"role": "tool", "content": "2"}], "messages.1.tool_call_id"),
        ([called("{}"), {"role": "tool", "tool_call_id": "call_2", "content": "2"}], "messages.2.tool_call_id"),
        ([called("{}"), {"role": "tool", "tool_call_id": "call_1"}], "messages.2"),
    ],
)
def test_bad_calls_in_a_conversation_are_a_400_that_says_where(ask: Any, more: list[Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(messages=[*MESSAGES, *more], tools=[WEATHER, ADD])
    assert refusal.value.param == param


@pytest.fixture(scope="module")
def plain_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its template knows no tools."""
    return write_null_engine(tmp_path_factory.mktemp("plain") / "engine", max_seq_len=8192)


@pytest.mark.parametrize("parser", [None, "hermes", "llama3_json", "qwen3_coder"])
def test_a_model_whose_template_knows_no_tools_is_told_of_them(plain_engine: Path, parser: str | None) -> None:
    with generating_shim(plain_engine, parser) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
        asked: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "tool_choice": named("add"), "max_tokens": 3000}
        message = client.chat.completions.create(messages=MESSAGES, **asked).choices[0].message
        call: Any = (message.tool_calls or [None])[0]
        check_call(call)
        messages = [*MESSAGES, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "42"}]
        assert client.chat.completions.create(messages=messages, **asked).choices[0].message.tool_calls
        _, counted = post(url, "/tokenize", json.dumps({"messages": messages, "tools": [NOW]}).encode())
        _, prompt = post(url, "/detokenize", json.dumps({"tokens": counted["tokens"]}).encode())
    for part in ('{"name": "now"', '"name": "add", "arguments": {', "<tool_response>\n42\n</tool_response>"):
        assert part in prompt["prompt"]
