"""OpenAI's Responses API with the openai package."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest
from pydantic import BaseModel

from tests.endpoint.conftest import MODEL
from tests.endpoint.tools.definitions import TOOLS, parameters_of
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

FUNCTIONS: list[Any] = [{"type": "function", "strict": False, "parameters": None, **each["function"]} for each in TOOLS]
THINK: Any = {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 9}
NO_THINKING: Any = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


@pytest.fixture
def text(rng: np.random.Generator) -> str:
    return "fox " * int(rng.integers(1, 9))


def asked(text: str, **more: Any) -> dict[str, Any]:
    """Greedy, so that a second answer is the same."""
    return {"model": MODEL, "input": text, "temperature": 0, "max_output_tokens": 30, **more}


def alike(response: Any) -> list[dict[str, Any]]:
    """The output without what is made up for each answer."""
    items = [item.to_dict() for item in response.output]
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


def test_the_same_text_as_chat(client: openai.OpenAI, text: str) -> None:
    body = asked(text, instructions="Be short.", metadata={"a": "b"}, include=["message.output_text.logprobs"])
    response = client.responses.create(**body, top_logprobs=2)
    messages: list[Any] = [{"role": "system", "content": "Be short."}, {"role": "user", "content": text}]
    chat = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=30)
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens" and response.metadata == {"a": "b"}
    usage, other = response.usage, chat.usage
    assert usage is not None and other is not None
    assert (usage.input_tokens, usage.output_tokens) == (other.prompt_tokens, other.completion_tokens)
    part: Any = response.output[0]
    logprobs = part.content[0].logprobs
    assert len(logprobs) == 30 and all(len(each.top_logprobs) == 2 for each in logprobs)
    pieces: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": text}]}]
    same = client.responses.create(**{**body, "input": pieces})
    assert same.output_text == response.output_text


def test_every_token_of_a_text_has_its_log_probability(client: openai.OpenAI, rng: np.random.Generator) -> None:
    """Also those in front of the first piece of text: blanks, and the first bytes of a character."""
    for _ in range(60):
        body = asked(str(rng.integers(10**9)), max_output_tokens=6)
        response = client.responses.create(**body, top_logprobs=1)
        items: list[Any] = response.output
        if [item.type for item in items] != ["message"]:
            continue  # reasoning has none, and neither have the tokens that end it
        (part,) = items[0].content
        assert response.usage is not None and len(part.logprobs) == response.usage.output_tokens, part.text


def test_a_stream_ends_with_the_whole_response(client: openai.OpenAI, text: str, rng: np.random.Generator) -> None:
    body = asked(text, tools=FUNCTIONS, tool_choice="required", extra_body=THINK, max_output_tokens=600)
    body["parallel_tool_calls"] = bool(rng.integers(2))
    whole = client.responses.create(**body)
    events: list[Any] = list(client.responses.create(**body, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert last.type == f"response.{whole.status}" and alike(last.response) == alike(whole)
    for index, item in enumerate(last.response.output):
        mine: list[Any] = [event for event in events if getattr(event, "output_index", None) == index]
        deltas = "".join(event.delta for event in mine if event.type.endswith(".delta"))
        assert mine[0].type == "response.output_item.added" and mine[-1].type == "response.output_item.done"
        assert mine[-1].item == item and mine[0].item.id == item.id
        assert deltas == (item.arguments if item.type == "function_call" else item.content[0].text)
    kinds = [item.type for item in whole.output]
    assert kinds[0] == "reasoning" and "function_call" in kinds
    calls = [item for item in whole.output if item.type == "function_call" and item.status == "completed"]
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), parameters_of(call.name))
    assert whole.usage is not None and whole.usage.output_tokens_details.reasoning_tokens == 9


def test_the_packages_helpers(client: openai.OpenAI, text: str) -> None:
    class Answer(BaseModel):
        yes: bool

    body = asked(text, extra_body=NO_THINKING, max_output_tokens=200)
    parsed = client.responses.parse(**body, text_format=Answer)
    assert isinstance(parsed.output_parsed, Answer) and parsed.status == "completed"
    with client.responses.stream(**body, text_format=Answer) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_parsed == parsed.output_parsed and snapshots[-1] == final.output_text


def test_a_conversation_goes_on_by_id_or_by_items(client: openai.OpenAI, text: str) -> None:
    body = asked(text, tools=FUNCTIONS, extra_body=THINK)
    choice: Any = {"type": "function", "name": "now"}
    first = client.responses.create(**{**body, "max_output_tokens": 100}, tool_choice=choice)
    assert first.status == "completed"
    (call,) = [item for item in first.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    by_id = client.responses.create(**{**body, "input": [result]}, previous_response_id=first.id)
    history: list[Any] = [{"role": "user", "content": text}, *[item.to_dict() for item in first.output], result]
    by_items = client.responses.create(**{**body, "input": history}, store=False)
    assert alike(by_id) == alike(by_items)
    assert by_id.usage is not None and by_items.usage is not None
    assert by_id.usage.input_tokens == by_items.usage.input_tokens
    third = client.responses.create(**{**body, "input": "and?"}, previous_response_id=by_id.id)
    assert third.previous_response_id == by_id.id and third.usage is not None
    assert third.usage.input_tokens > by_id.usage.input_tokens
    listed = client.responses.input_items.list(third.id, order="asc", limit=2)
    items: list[Any] = list(listed)
    kinds = [item.type for item in items]
    assert kinds[:3] == ["message", "reasoning", "function_call"] and items[-1].content[0].text == "and?"
    newest = client.responses.input_items.list(third.id, limit=1).data[0]
    assert newest.id == items[-1].id


def test_responses_are_kept_until_they_are_deleted(client: openai.OpenAI, text: str) -> None:
    response = client.responses.create(**asked(text))
    found = client.responses.retrieve(response.id)
    assert found.to_dict() == response.to_dict()
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError, match="was deleted"):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="was deleted") as refusal:
        client.responses.create(**asked(text), previous_response_id=response.id)
    assert refusal.value.code == "previous_response_not_found"
    unstored = client.responses.create(**asked(text), store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_in_the_background(client: openai.OpenAI, text: str) -> None:
    whole = client.responses.create(**asked(text))
    begun = client.responses.create(**asked(text), background=True)
    assert begun.status == "in_progress" and not begun.output
    end = time.monotonic() + PATIENCE_S
    while (found := client.responses.retrieve(begun.id)).status == "in_progress" and time.monotonic() < end:
        time.sleep(0.01)
    assert alike(found) == alike(whole) and client.responses.cancel(begun.id).status == found.status
    with pytest.raises(openai.BadRequestError, match="background: true"):
        client.responses.cancel(whole.id)


def test_what_runs_in_the_background_cannot_be_continued_and_can_be_cancelled(client: openai.OpenAI, text: str) -> None:
    def begin() -> str:
        return str(client.responses.create(**{**asked(text), "max_output_tokens": 1900}, background=True).id)

    def is_refused() -> bool:
        try:
            client.responses.create(**asked(text), previous_response_id=begin())
        except openai.BadRequestError as error:
            return "not ended" in str(error)
        return False

    def is_cancelled() -> bool:
        identifier = begin()
        ended: str = client.responses.cancel(identifier).status
        assert client.responses.retrieve(identifier).status == ended
        return ended == "cancelled"

    # An answer may be complete before the next call arrives, so each is asked for until one was not.
    assert eventually(is_refused) and eventually(is_cancelled)


ITEM = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"}
RESULT = {"type": "function_call_output", "call_id": "a", "output": "x"}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": []}, "input", "no input"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type", "images"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "previous_response_id"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input.0", "needs 'call_id'"),
    ({"input": [{**ITEM, "arguments": "{"}]}, "input.0.tool_calls.0.function.arguments", "JSON"),
    ({"input": [RESULT]}, "input.0.tool_call_id", "no earlier"),
    ({"max_output_tokens": 0}, "max_output_tokens", "greater"),
    ({"max_output_tokens": 1 << 20}, "input", "context length"),
    ({"temperature": -1}, "temperature", "temperature"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type", "no functions"),
    ({"tools": FUNCTIONS, "tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name", "'f'"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "Missing"),
    ({"truncation": "auto"}, "truncation", "leaving out"),
    ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    ({"previous_response_id": "resp_0"}, "previous_response_id", "not found"),
    ({"extra_body": {"max_tokens": 3}}, "max_tokens", "Unknown"),
    ({"background": True, "store": False}, "background", "store"),
    ({"background": True, "stream": True}, "background", "streamed"),
]


@pytest.mark.parametrize(("change", "param", "words"), BAD)
def test_bad_input_is_a_400_that_says_where(
    client: openai.OpenAI, change: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as refusal:
        client.responses.create(**{**asked("fox"), **change})
    assert refusal.value.param == param
