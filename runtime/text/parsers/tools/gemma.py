"""Gemma 4 and FunctionGemma: call:NAME{key:value} between markers, in which strings have marks of their own."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.argument_schemas import in_order, is_simple, simple_arguments
from inflight.runtime.text.parsers.json_value import read_json
from inflight.runtime.text.parsers.parts import Part
from inflight.runtime.text.parsers.tool_format import Spell, Tool, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser
from inflight.runtime.text.parsers.whole_call import MOST_DEPTH, WholeCall, split_outside

_CALL = "call:"
_BLANKS = " \t\n\r"
# What a key may be beside a colon without marks of its own.
_KEY = re.compile(r"[\w.\-]+")


class Marks(NamedTuple):
    """`quote` begins and ends a string."""

    opening: str
    closing: str
    quote: str


GEMMA4_MARKS = Marks("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA_MARKS = Marks("<start_function_call>", "<end_function_call>", "<escape>")


class _Reader(WholeCall):
    """The word `call:` before the name says nothing, and is left out at times."""

    def push(self, text: str, at: int, parts: list[Part]) -> int:
        if self._name is None:
            if text.startswith(_CALL, at):
                at += len(_CALL)
            elif _CALL.startswith(text[at:]):
                return at
        return super().push(text, at, parts)


class _Parser(JsonCallParser):
    def __init__(self, marks: Marks) -> None:
        super().__init__([marks.opening], marks.closing)
        self._marks = marks

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        quote = self._marks.quote
        return _Reader(index, "{", (quote, '"'), lambda text: read_arguments(text, quote))


def read_arguments(text: str, quote: str) -> dict[str, Any] | None:
    """The arguments out of what stands between the braces, as JSON or in Gemma's notation; None for what is none."""
    try:
        value = read_json("{" + text + "}")
    except (ValueError, RecursionError):
        value = _object(text, quote, MOST_DEPTH)
    return value if isinstance(value, dict) else None


def _object(text: str, quote: str, depth: int) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for piece in _pieces(text, quote):
        key, *rest = split_outside(piece, ":", (quote, '"'))
        if not rest or depth == 0:
            return None
        found[_unquoted(key.strip(_BLANKS), quote)] = _value(":".join(rest), quote, depth - 1)
    return found


def _value(text: str, quote: str, depth: int) -> Any:
    text = text.strip(_BLANKS)
    if text.startswith(quote):
        return _unquoted(text, quote)
    if text[:1] == "{" and text[-1:] == "}":
        return _object(text[1:-1], quote, depth)
    if text[:1] == "[" and text[-1:] == "]" and depth:
        return [_value(each, quote, depth - 1) for each in _pieces(text[1:-1], quote)]
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        return text


def _pieces(text: str, quote: str) -> list[str]:
    return [piece for piece in split_outside(text, ",", (quote, '"')) if piece.strip(_BLANKS)]


def _unquoted(text: str, quote: str) -> str:
    if text.startswith(quote):
        return text.removeprefix(quote).removesuffix(quote)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str) else text


def _grammar(marks: Marks, tools: Tools, most: int, spell: Spell) -> str:
    calls, rules = [], []
    for number, tool in enumerate(tools):
        calls.append(f"{json.dumps(_CALL + tool.name)} call_{number}")
        rules += _call_rules(f"call_{number}", tool, spell(marks.quote))
    is_token = spell(marks.quote) != json.dumps(marks.quote)
    # Up to the next mark, which ends the string for the parser, too.
    text = "text: /(?s:.*)/" if is_token else f"text[lazy]: /(?s:.*){marks.quote.replace('|', chr(92) + '|')}/"
    end = spell(marks.quote) if is_token else ""
    one = f"{spell(marks.opening)} call {spell(marks.closing)}"
    more = f" ({one}){{0,{most - 1}}}" if most > 1 else ""
    head = [f"calls: {one}{more}", f"call: {' | '.join(calls)}", f"string: {spell(marks.quote)} text {end}", text]
    return "\n".join([*head, *rules])


def _call_rules(name: str, tool: Tool, quote: str) -> list[str]:
    properties = tool.parameters.get("properties", {})
    if not is_simple(tool.parameters) or not all(map(_KEY.fullmatch, properties)):
        return [f"{name}: {json_rule(tool.parameters)}"]
    arguments, rules = simple_arguments(f"{name}_argument", tool.parameters)
    shown = []
    for each in arguments:
        word = f"{quote} {each.value} {quote}" if each.is_text else each.value
        shown.append((f"{json.dumps(f'{each.key}:')} {word if each.value else 'string'}", each.is_required))
    return [f'{name}: "{{" {name}_arguments "}}"', *in_order(f"{name}_arguments", shown, '","'), *rules]


def _format(name: str, marks: Marks) -> ToolFormat:
    return ToolFormat(
        name,
        lambda template: marks.opening in template,
        lambda tools: _Parser(marks),
        lambda tools, most, spell: _grammar(marks, tools, most, spell),
        tuple(marks),
    )


GEMMA4 = _format("gemma4", GEMMA4_MARKS)
FUNCTION_GEMMA = _format("functiongemma", FUNCTION_GEMMA_MARKS)
