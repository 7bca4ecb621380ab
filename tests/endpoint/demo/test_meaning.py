"""Calls of tools and answers as JSON that are right, through the openai package and both modes of a server.

What is asked is drawn from what the demonstration model answers as it should; the right answers are those of the
standard library.
"""

from __future__ import annotations

import inspect
import json
import shutil
import textwrap
from typing import Any

import numpy as np
import openai
import pytest
from pydantic import BaseModel

from tests.endpoint.conftest import MODEL
from tests.engines.demo_engine import random_questions, random_skills
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.fixture(params=["embedded_demo", "triton_demo"])
def client(request: pytest.FixtureRequest) -> openai.OpenAI:
    url = request.getfixturevalue(request.param)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


def ask(client: openai.OpenAI, messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=messages, max_tokens=128, temperature=0, **more)


def called(message: Any) -> tuple[str, dict[str, Any]]:
    (call,) = message.tool_calls
    return call.function.name, json.loads(call.function.arguments)


def written(reference: str) -> tuple[str, dict[str, Any]]:
    """The call that Hermes's form has in `reference`."""
    call = json.loads(reference.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
    return call["name"], call["arguments"]


@pytest.mark.parametrize("kind", ["tool_signature", "tool_find"])
def test_the_model_calls_the_right_tool_with_the_right_arguments(
    client: openai.OpenAI, rng: np.random.Generator, kind: str
) -> None:
    for row in random_skills(rng, kind, 2):
        answer = ask(client, row["messages"], tools=row["tools"])
        assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
        assert called(answer.choices[0].message) == written(row["reference"])
        name, arguments = "", ""
        for chunk in ask(client, row["messages"], tools=row["tools"], stream=True):
            for call in chunk.choices[0].delta.tool_calls or ():
                name += call.function.name or ""
                arguments += call.function.arguments or ""
        assert (name, json.loads(arguments)) == written(row["reference"])


def test_a_call_and_its_result_become_an_answer(client: openai.OpenAI, rng: np.random.Generator) -> None:
    """Results are made up, so that nothing but the tool's message says them."""
    for row in random_skills(rng, "tool_result", 2):
        question, call, result = row["messages"]
        first = ask(client, [question], tools=row["tools"], tool_choice="required").choices[0].message
        assert called(first)[0] == call["tool_calls"][0]["function"]["name"]
        told = {**result, "tool_call_id": first.tool_calls[0].id}
        answer = ask(client, [question, first, told], tools=row["tools"]).choices[0].message
        assert (answer.content, answer.tool_calls) == (row["reference"], None)


def test_a_forced_tool_gets_the_arguments_that_are_asked_for(client: openai.OpenAI, rng: np.random.Generator) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "get_signature"}}):
        (row,) = random_skills(rng, "tool_signature", 1)
        answer = ask(client, row["messages"], tools=row["tools"], tool_choice=choice)
        assert called(answer.choices[0].message) == written(row["reference"])


def test_what_no_tool_answers_is_answered_in_words(client: openai.OpenAI, rng: np.random.Generator) -> None:
    (row,) = random_skills(rng, "tool_none", 1)
    message = ask(client, row["messages"], tools=row["tools"]).choices[0].message
    assert message.tool_calls is None and message.content == row["reference"]
    (row,) = random_skills(rng, "tool_signature", 1)
    for tools in ({}, {"tools": row["tools"], "tool_choice": "none"}):
        assert ask(client, row["messages"], **tools).choices[0].message.tool_calls is None


def test_a_schema_gets_what_is_asked_for(client: openai.OpenAI, rng: np.random.Generator) -> None:
    """Also where the messages do not speak of JSON: the grammar alone does then."""

    class Described(BaseModel):
        description: str

    class Signature(BaseModel):
        name: str
        signature: str

    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "What does shutil.copytree do?"}],
        response_format=Described,
        temperature=0,
    )
    described = answer.choices[0].message.parsed
    assert shutil.copytree.__doc__ is not None and described is not None
    assert shutil.copytree.__doc__.strip().startswith(described.description)
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the signature of textwrap.shorten? Answer as JSON."}],
        response_format=Signature,
        temperature=0,
    )
    assert answer.choices[0].message.parsed == Signature(
        name="textwrap.shorten", signature=f"shorten{inspect.signature(textwrap.shorten)}"
    )


def test_json_is_right_where_it_is_asked_for_in_words(client: openai.OpenAI, rng: np.random.Generator) -> None:
    for row in random_skills(rng, "json", 3):
        answer = ask(client, row["messages"], response_format={"type": "json_object"}).choices[0].message.content
        assert json.loads(answer) == json.loads(row["reference"])
    ((question, reference),) = random_questions(rng, 1)
    assert ask(client, [{"role": "user", "content": question}]).choices[0].message.content == reference
