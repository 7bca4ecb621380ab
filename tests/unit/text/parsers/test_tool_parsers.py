"""Tool calls as models write them: random ones are found, wherever the text is cut; anything else is content."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inflight.errors import InflightError
from inflight.runtime.text.parsers.answer import Chain, PlainText
from inflight.runtime.text.parsers.tools.registry import TOOL_FORMATS, find_tool_format, format_of_template
from tests.unit.text.parsers.answers import TOOLS, cuts, odd_text, random_call, read, values

pytestmark = pytest.mark.unit

Calls = list[tuple[str, Any]]


def as_json(name: str, arguments: Any, rng: np.random.Generator, key: str = "arguments") -> str:
    """The object of a call, its keys in any order, its layout in any style."""
    pairs: list[tuple[str, Any]] = [("name", name), (key, arguments)]
    if rng.random() < 0.3:
        pairs.append(("type", "function"))
    if rng.random() < 0.2:
        pairs = [("name", name), (key, json.dumps(arguments))]
    order = rng.permutation(len(pairs))
    indent = None if rng.random() < 0.5 else int(rng.integers(3))
    return json.dumps(
        {pairs[place][0]: pairs[place][1] for place in order}, indent=indent, ensure_ascii=rng.random() < 0.5
    )


def hermes(calls: Calls, rng: np.random.Generator) -> str:
    blank = ["", "\n", "\n\n"][rng.integers(3)]
    return blank.join(f"<tool_call>{blank}{as_json(*each, rng)}{blank}</tool_call>" for each in calls)


def llama(calls: Calls, rng: np.random.Generator) -> str:
    joined = ["; ", ";", "\n", ", "][rng.integers(4)].join(as_json(*each, rng, "parameters") for each in calls)
    return ("<|python_tag|>" if calls and rng.random() < 0.5 else "") + joined


def qwen_coder(calls: Calls, rng: np.random.Generator) -> str:
    def block(name: str, arguments: dict[str, Any]) -> str:
        texts = {key: each if isinstance(each, str) else json.dumps(each) for key, each in arguments.items()}
        lines = [f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in texts.items()]
        return f"<tool_call>\n<function={name}>\n{''.join(lines)}</function>\n</tool_call>"

    return "\n".join(block(*each) for each in calls)


WRITERS: dict[str, Callable[[Calls, np.random.Generator], str]] = {
    "hermes": hermes,
    "generic": hermes,
    "llama3_json": llama,
    "qwen3_coder": qwen_coder,
}


def is_free_of(mark: str, call: tuple[str, Any]) -> bool:
    """Of a form whose texts are not quoted, and so cannot hold the mark that ends them; JSON can."""
    return not any(isinstance(each, str) and mark in each for each in call[1].values())


@pytest.mark.parametrize("name", WRITERS)
def test_random_calls_are_found_wherever_the_text_is_cut(name: str, rng: np.random.Generator) -> None:
    for _ in range(150):
        calls = [random_call(rng) for _ in range(rng.integers(1, 4))]
        if name == "qwen3_coder":
            calls = [each for each in calls if is_free_of("</parameter>", each)]
        before = "" if name == "llama3_json" or rng.random() < 0.5 else "Let me see.\n"
        text = before + WRITERS[name](calls, rng)
        found = read(find_tool_format(name).parser(TOOLS), cuts(rng, text))
        assert values(found[2]) == calls, text
        assert found[1] == (before.rstrip() if calls else before), text


@pytest.mark.parametrize("name", TOOL_FORMATS.names())
def test_what_comes_of_any_text_does_not_depend_on_its_cuts(name: str, rng: np.random.Generator) -> None:
    """Of rubbish, and of calls that are cut off or changed somewhere."""
    for _ in range(150):
        text = odd_text(rng, 30)
        if rng.random() < 0.7:
            whole = WRITERS.get(name, hermes)([random_call(rng) for _ in range(rng.integers(1, 3))], rng)
            at = int(rng.integers(len(whole) + 1))
            text = whole[:at] + (text + whole[at + int(rng.integers(4)) :] if rng.random() < 0.7 else "")
        found = [read(find_tool_format(name).parser(TOOLS), cuts(rng, text)) for _ in range(4)]
        assert all(each == found[0] for each in found), text
        if not found[0][2]:
            assert found[0][1] == text


@pytest.mark.parametrize("name", TOOL_FORMATS.names())
def test_text_without_calls_is_content_and_does_not_wait(name: str, rng: np.random.Generator) -> None:
    words = ["The", "lazy", "dog", "2 < 3", "a[0]", "end."]
    text = " ".join(words[place] for place in rng.integers(len(words), size=20))
    assert read(find_tool_format(name).parser(TOOLS), cuts(rng, text)) == ("", text, [])
    parser = find_tool_format(name).parser(TOOLS)
    assert "".join(getattr(part, "text", "") for part in parser.push("Good morning.")) == "Good morning."


def test_arguments_go_out_as_they_grow() -> None:
    parser = find_tool_format("hermes").parser(TOOLS)
    begun = list(parser.push('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Tok'))
    assert [getattr(part, "name", None) or getattr(part, "text", None) for part in begun] == [
        "get_weather",
        '{"city": "Tok',
    ]
    assert [getattr(part, "text", None) for part in parser.push('yo"}}')] == ['yo"}']


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', "{}"),
        ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', "{}"),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": "one\ntwo\\\'s"}}</tool_call>',
            '{"a": "one\\ntwo\'s"}',
        ),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1', '{"a": 1'),
        ("hermes", '<tool_call>[{"name": "f", "arguments": {}}]</tool_call>', "{}"),
        ("qwen3_coder", "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>", '{"a": 1}'),
        ("qwen3_coder", "<tool_call><function=f><parameter=a>NaN</parameter></function>", '{"a": "NaN"}'),
        ("qwen3_coder", "<tool_call><function=f><parameter=a>True</parameter></function>", '{"a": true}'),
        (
            "qwen3_coder",
            '<function=f>\n<parameter=a>\n{"b": "c</parameter>\n<parameter=d>\n1\n</parameter>\n</function>',
            '{"a": "{\\"b\\": \\"c", "d": 1}',
        ),
        ("qwen3_coder", '<function=f><parameter=a>["\\\\</parameter></function>', r'{"a": "[\"\\\\"}'),
    ],
)
def test_what_models_get_wrong(name: str, text: str, arguments: str) -> None:
    assert read(find_tool_format(name).parser(TOOLS), iter(text)) == ("", "", [("f", arguments)])


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Bob", "parameters": {}}',
        '{"name": "get_weather"}',
        '{"city": "Tokyo"}',
        "[1, 2]",
        '<|python_tag|>brave_search.call(query="fox")',
    ],
)
def test_json_that_is_no_call_is_content(text: str) -> None:
    assert read(find_tool_format("llama3_json").parser(TOOLS), iter(text)) == ("", text, [])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>', "hermes"),
        ("<tool_call>\\n<function=f>\\n<parameter=a>", "qwen3_coder"),
        (
            'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.',
            "llama3_json",
        ),
        ("{{ messages[0].content }}", "generic"),
        (None, "generic"),
    ],
)
def test_the_form_is_that_which_the_template_teaches(template: str | None, name: str) -> None:
    assert format_of_template(template).name == name


def test_an_unknown_parser_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InflightError, match="no tool call parser verse") as refusal:
        find_tool_format("verse")
    assert "hermes" in str(refusal.value.hint)


def test_a_chain_gives_the_second_parser_what_the_first_calls_content(rng: np.random.Generator) -> None:
    calls = [random_call(rng)]
    chain = Chain(PlainText(), find_tool_format("hermes").parser(TOOLS))
    assert values(read(chain, cuts(rng, hermes(calls, rng)))[2]) == calls
