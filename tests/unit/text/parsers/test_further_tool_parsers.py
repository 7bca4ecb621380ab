"""The notations of further families: random calls are found wherever the text is cut, and grammars give such calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inflight.runtime.text.parsers.answer import Chain
from inflight.runtime.text.parsers.reasoning.families import FAMILIES
from inflight.runtime.text.parsers.reasoning.parser import Beginning
from inflight.runtime.text.parsers.tool_format import Tool
from inflight.runtime.text.parsers.tools.registry import find_tool_format, format_of_template
from tests.unit.text.parsers.answers import TOOLS, cuts, odd_text, random_call, read, values

pytestmark = pytest.mark.unit

Calls = list[tuple[str, Any]]


def named(calls: Calls, key: str = "arguments") -> list[str]:
    return [json.dumps({"name": name, key: arguments}, ensure_ascii=False) for name, arguments in calls]


def python(value: Any) -> str:
    """As Python writes it, or JSON: both are read."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {python(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(python, value)) + "]" if isinstance(value, list) else repr(value)


def pythonic(calls: Calls, rng: np.random.Generator) -> str:
    def write(value: Any) -> str:
        return python(value) if rng.random() < 0.5 else json.dumps(value)

    calls_text = [
        f"{name}({', '.join(f'{key}={write(each)}' for key, each in given.items())})" for name, given in calls
    ]
    text = "[" + ", ".join(calls_text) + "]"
    return f"<|python_start|>{text}<|python_end|>" if rng.random() < 0.5 else text


def gemma(quote: str, opening: str, closing: str) -> Callable[[Calls, np.random.Generator], str]:
    def write(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{quote}{key}{quote}:{write(each)}" for key, each in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(write, value)) + "]"
        return f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value)

    def write_all(calls: Calls, rng: np.random.Generator) -> str:
        bodies = [",".join(f"{key}:{write(each)}" for key, each in given.items()) for _, given in calls]
        pairs = zip(calls, bodies, strict=True)
        return "".join(f"{opening}call:{name}{{{body}}}{closing}" for (name, _), body in pairs)

    return write_all


def glm(calls: Calls, rng: np.random.Generator) -> str:
    line = "\n" if rng.random() < 0.5 else ""

    def block(name: str, arguments: dict[str, Any]) -> str:
        texts = {key: each if isinstance(each, str) else json.dumps(each) for key, each in arguments.items()}
        pairs = [f"<arg_key>{key}</arg_key>{line}<arg_value>{text}</arg_value>" for key, text in texts.items()]
        return f"<tool_call>{line.join([name, *pairs])}{line}</tool_call>"

    return line.join(block(*each) for each in calls)


def mistral(calls: Calls, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return f"[TOOL_CALLS] [{', '.join(named(calls))}]"
    ids = "[CALL_ID]abc123XYZ" if rng.random() < 0.3 else ""
    marker = "[ARGS]" if rng.random() < 0.8 or ids else ""
    return "".join(f"[TOOL_CALLS]{name}{ids}{marker}{json.dumps(arguments)}" for name, arguments in calls)


def deepseek(is_fenced: bool) -> Callable[[Calls, np.random.Generator], str]:
    def one(name: str, arguments: Any) -> str:
        body = json.dumps(arguments, ensure_ascii=False)
        inner = f"function<｜tool▁sep｜>{name}\n```json\n{body}\n```" if is_fenced else f"{name}<｜tool▁sep｜>{body}"
        return f"<｜tool▁call▁begin｜>{inner}<｜tool▁call▁end｜>"

    def write_all(calls: Calls, rng: np.random.Generator) -> str:
        between = "\n" if is_fenced else ""
        return f"<｜tool▁calls▁begin｜>{between.join(one(*each) for each in calls)}<｜tool▁calls▁end｜>"

    return write_all


def harmony(calls: Calls, rng: np.random.Generator) -> str:
    first = "<|start|>assistant" if rng.random() < 0.5 else ""

    def one(name: str, arguments: Any) -> str:
        headers = [
            f"<|channel|>commentary to=functions.{name} <|constrain|>json",
            f" to=functions.{name}<|channel|>commentary json",
        ]
        return f"{headers[rng.integers(2)]}<|message|>{json.dumps(arguments)}"

    return first + "<|call|><|start|>assistant".join(one(*each) for each in calls)


WRITERS: dict[str, Callable[[Calls, np.random.Generator], str]] = {
    "mistral": mistral,
    "deepseek_v3": deepseek(True),
    "deepseek_v31": deepseek(False),
    "granite": lambda calls, rng: (
        ["<|tool_call|>", "<tool_call>\n", ""][rng.integers(3)] + f"[{', '.join(named(calls))}]"
    ),
    "phi4_mini_json": lambda calls, rng: (
        f"<|tool_call|>[{', '.join(named(calls))}]<|/tool_call|>"
        if rng.random() < 0.5
        else f"functools[{', '.join(named(calls))}]"
    ),
    "glm45": glm,
    "pythonic": pythonic,
    "gemma4": gemma('<|"|>', "<|tool_call>", "<tool_call|>"),
    "functiongemma": gemma("<escape>", "<start_function_call>", "<end_function_call>"),
    "openai": harmony,
}


def can_be_written(name: str, call: tuple[str, Any]) -> bool:
    """Whether the notation has a spelling for it: some have strings without quotes, or without escapes."""
    text = json.dumps(call[1], ensure_ascii=False)
    if name == "glm45":
        return not any(isinstance(each, str) and "</arg_value>" in each for each in call[1].values())
    return name not in ("gemma4", "functiongemma") or not any(mark in text for mark in ('<|"|>', "<escape>", '<|\\"'))


@pytest.mark.parametrize("name", WRITERS)
def test_random_calls_are_found_wherever_the_text_is_cut(name: str, rng: np.random.Generator) -> None:
    for _ in range(150):
        calls = [random_call(rng) for _ in range(rng.integers(1, 4))]
        calls = [each for each in calls if can_be_written(name, each)]
        if not calls:
            continue
        before = "" if name in ("pythonic", "granite") or rng.random() < 0.5 else "Let me see.\n"
        text = before + WRITERS[name](calls, rng)
        found = read(find_tool_format(name).parser(TOOLS), cuts(rng, text))
        assert values(found[2]) == calls, text
        assert found[1] == before.rstrip(), text


@pytest.mark.parametrize("name", WRITERS)
def test_what_comes_of_any_text_does_not_depend_on_its_cuts(name: str, rng: np.random.Generator) -> None:
    """Of rubbish with the marks of the notation, and of calls that are cut off or changed somewhere."""
    form = find_tool_format(name)
    for _ in range(200):
        text = odd_text(rng, 30)
        if rng.random() < 0.8:
            whole = WRITERS[name]([random_call(rng) for _ in range(rng.integers(1, 3))], rng)
            at, more = (
                int(rng.integers(len(whole) + 1)),
                list(form.markers or [""])[rng.integers(len(form.markers or [""]))],
            )
            text = whole[:at] + (text + more + whole[at + int(rng.integers(4)) :] if rng.random() < 0.7 else "")
        found = [read(form.parser(TOOLS), cuts(rng, text)) for _ in range(4)]
        assert all(each == found[0] for each in found), text
        if not found[0][2]:
            assert found[0][1] == text


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": [1', '{"a": [1'),
        ("mistral", '[TOOL_CALLS]f{"a": 1}', '{"a": 1}'),
        ("pythonic", "[f()]", "{}"),
        ("pythonic", "[f(a=True, b=None, c=-1.5, d=('x', \"y\"), e={'k': false},)]",
         '{"a": true, "b": null, "c": -1.5, "d": ["x", "y"], "e": {"k": false}}'),
        ("pythonic", '[f(**{"a b": "]"})]', '{"a b": "]"}'),
        ("pythonic", '[f(a="\\ud83d\\ude00\\n")]', '{"a": "😀\\n"}'),
        ("gemma4", '<|tool_call>call:f{a:<|"|>x, "y": {<|"|>,b:{c:[1,true,<|"|>z<|"|>]}}<tool_call|>',
         '{"a": "x, \\"y\\": {", "b": {"c": [1, true, "z"]}}'),
        ("gemma4", '<|tool_call>f{"a": {"b": "}"}}', '{"a": {"b": "}"}}'),
        ("glm45", "<tool_call>f\n</tool_call>", "{}"),
        ("glm45", "<tool_call>f<arg_key>n</arg_key><arg_value>[1, 2]</arg_value></tool_call>", '{"n": [1, 2]}'),
        ("glm45", '<tool_call>{"name": "f", "arguments": {"n": 1}}</tool_call>', '{"n": 1}'),
        ("glm45", '<tool_call>f<arg_key>n</arg_key><arg_value>{"a": "b</arg_value>\n</tool_call>',
         '{"n": "{\\"a\\": \\"b"}'),
        ("glm45", '<tool_call>f<arg_key>n</arg_key><arg_value>["b</arg_value></tool_call>', '{"n": "[\\"b"}'),
        ("openai", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}', '{"a": 1}'),
    ],
)  # fmt: skip
def test_the_odd_spellings(name: str, text: str, arguments: str) -> None:
    tools = [*TOOLS, Tool("f")]
    assert read(find_tool_format(name).parser(tools), iter(text)) == ("", "", [("f", arguments)])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pythonic", "[f(a)]"),
        ("pythonic", "[f(a=open('x'))]"),
        ("pythonic", "[f(a=1e999)]"),
        ("pythonic", "[f(a=b'x')]"),
        ("pythonic", "[unknown(a=1)]"),
        ("pythonic", "[f(a=" + "[" * 1000 + "]" * 1000 + ")]"),
        ("gemma4", "<|tool_call>call:f{a}<tool_call|>"),
        ("gemma4", "<|tool_call>call:f{a:" + "[" * 1000 + "]" * 1000 + "}"),
        ("gemma4", "<|tool_call>call:f{a:1e999}<tool_call|>"),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": NaN}"}</tool_call>'),
        ("mistral", "[TOOL_CALLS] none"),
        ("openai", "<|channel|>final<|message|>Yes. {}"),
        ("phi4_mini_json", "functools.reduce([1])"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
    ],
)
def test_what_is_no_call_is_content(name: str, text: str) -> None:
    tools = [*TOOLS, Tool("f")]
    assert read(find_tool_format(name).parser(tools), iter(text)) == ("", text, [])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{- '[TOOL_CALLS]' + call.name + '[ARGS]' }}", "mistral"),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n", "deepseek_v3"),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", "deepseek_v31"),
        ("<|start|>assistant<|channel|>commentary<|message|>", "openai"),
        ("<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>", "glm45"),
        ("<|tool|>{{ tools }}<|/tool|>", "phi4_mini_json"),
        ("<|tool_call|>[{'name': ...}]", "granite"),
        ("<|tool_call>call:{{ name }}", "gemma4"),
        ("<start_function_call>call:{{ name }}", "functiongemma"),
        ("return them in [func_name1(params_name1=params_value1, ...)]", "pythonic"),
    ],
)
def test_the_form_is_that_which_the_template_teaches(template: str, name: str) -> None:
    assert format_of_template(template).name == name


def test_the_reasoning_of_harmony_leaves_its_calls_to_their_parser(rng: np.random.Generator) -> None:
    for _ in range(50):
        calls = [random_call(rng)]
        text = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant" + harmony(calls, rng).removeprefix(
            "<|start|>assistant"
        )
        chain = Chain(FAMILIES["gpt_oss"].parser(Beginning.OPEN), find_tool_format("openai").parser(TOOLS))
        reasoning, content, found = read(chain, cuts(rng, text))
        assert (reasoning, content, values(found)) == ("Let me see.", "", calls), text
