"""Tools and calls in prompts: as the template knows them, or as text for one that does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime.text.chat.chat_template import ChatTemplate
from inflight.runtime.text.parsers.tools.registry import find_tool_format
from tests.unit.text.parsers.answers import TOOLS as CALLED
from tests.unit.text.parsers.answers import random_call, read, values

pytestmark = pytest.mark.unit

TOOLS = [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}]
ROLES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + ROLES
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
CALLS = (
    "{% set all = tools %}"
    "{% for m in messages %}{% for c in m.tool_calls or [] %}[{{ c.function.arguments HOW }}]{% endfor %}{% endfor %}"
)


def conversation(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [
        {"role": "user", "content": "fox"},
        {"role": "assistant", "content": "Well.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a fox"},
        {"role": "user", "content": "and?"},
    ]


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source})


def render(source: str, messages: list[dict[str, Any]], tools: Any = None) -> str:
    return template(source).render(messages, tools, adapt_tools=True)


def test_a_template_that_reads_tools_gets_them_as_they_are() -> None:
    source = "{{ tools | tojson }}" + ROLES
    assert template(source).tool_source == source
    assert render(source, conversation({})[:1], TOOLS) == json.dumps(TOOLS) + "<user>fox"


def test_tools_are_described_to_a_template_that_does_not_read_them() -> None:
    assert template(ROLES).tool_source is None
    found = render(ROLES, conversation({})[:1], TOOLS)
    assert found.startswith("<system>") and found.endswith("<user>fox") and json.dumps(TOOLS[0]["function"]) in found
    with_system = render(ROLES, [{"role": "system", "content": "Be brief."}, *conversation({})[:1]], TOOLS)
    assert with_system.startswith("<system>Be brief.\n\n") and "<tool_call>" in with_system
    without = render(NO_SYSTEM, conversation({})[:1], TOOLS)
    assert without.startswith("<user>") and without.endswith("fox") and '"name": "look"' in without
    assert render(ROLES, conversation({})[:1]) == "<user>fox"


def test_calls_become_text_that_reads_as_calls(rng: np.random.Generator) -> None:
    name, arguments = random_call(rng)
    messages = conversation(arguments)
    messages[1]["tool_calls"][0]["function"]["name"] = name
    prompt = render(ALTERNATING, messages)
    said = prompt.partition("<assistant>")[2].partition("<user><tool_response>")[0]
    assert values(read(find_tool_format("generic").parser(CALLED), iter([said]))[2]) == [(name, arguments)]
    assert prompt.endswith("<user><tool_response>\na fox\n</tool_response>\nand?")


@pytest.mark.parametrize("given", [{"a": [1, "ü"]}, '{"a": [1, "ü"]}'])
@pytest.mark.parametrize("how", ["| tojson", "", "+ '!'"])
def test_arguments_are_an_object_or_text_as_the_template_takes_them(given: Any, how: str) -> None:
    found = render(CALLS.replace("HOW", how), conversation(given))
    assert found == '[{"a": [1, "ü"]}' + ("!]" if "!" in how else "]")


def test_a_result_has_the_name_of_its_tool() -> None:
    source = "{% set all = tools %}{% for m in messages %}{{ m.name }}{% endfor %}"
    assert render(source, conversation({})) == "look"


@pytest.mark.parametrize("given", ["{", "[1]", 7])
def test_arguments_that_are_no_object_are_refused(given: Any) -> None:
    with pytest.raises(RequestError, match="Message 1 has a tool call"):
        render(ROLES, conversation(given))


def test_a_request_with_which_the_template_fails_says_nothing_of_the_next() -> None:
    fails = "{{ raise_exception('no') if mode == 'bad' else '' }}"
    calls = template(fails + CALLS.replace("HOW", "+ ''"))
    texts = template(fails + "{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}")
    parts = [{"role": "user", "content": [{"type": "text", "text": "fox"}]}]
    for mode in ("bad", "good", "bad", "good"):
        for asked, messages, expected in ((calls, conversation({"a": 1}), '[{"a": 1}]'), (texts, parts, "<fox>")):
            if mode == "good":
                assert asked.render(messages, variables={"mode": mode}, adapt_tools=True) == expected
            else:
                with pytest.raises(RequestError, match="no"):
                    asked.render(messages, variables={"mode": mode}, adapt_tools=True)
