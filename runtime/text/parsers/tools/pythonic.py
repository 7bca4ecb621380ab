"""Llama 3.2 and 4 and others: a list of calls as Python writes them, [f(a=1), g(b='x')], as the whole answer or between
<|python_start|> and <|python_end|>."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.argument_schemas import in_order, is_separate
from inflight.runtime.text.parsers.marked_text import may_begin
from inflight.runtime.text.parsers.parts import OutputParser, Part
from inflight.runtime.text.parsers.tool_format import Spell, Tool, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser
from inflight.runtime.text.parsers.whole_call import WholeCall, split_outside

_OPENING, _CLOSING = "<|python_start|>", "<|python_end|>"
_QUOTES = ("'", '"')
_BLANKS = " \t\n\r"
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def _fits(template: str) -> bool:
    return _OPENING in template or "[func_name1(params_name1=params_value1" in template


class _Parser(JsonCallParser):
    def __init__(self, tools: Tools) -> None:
        self._names = frozenset(tool.name for tool in tools)
        super().__init__([_OPENING], _CLOSING, self._names)

    def _read_start(self, parts: list[Part]) -> bool:
        """An object is none of these calls."""
        shown = self._held.lstrip(_BLANKS)
        if shown:
            self._state = "opened" if shown[0] == "[" else "content"
        return bool(shown)

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        return WholeCall(index, "(", _QUOTES, read_arguments, self._names if opened_by is None else None)

    def _read_between(self, parts: list[Part]) -> bool:
        shown = self._held.lstrip(_BLANKS)
        for end in ("]", _CLOSING):
            if shown.startswith(end):
                self._held = shown[len(end) :]
                return True
        behind = shown[1:].lstrip(_BLANKS) if shown.startswith(",") else shown
        if not behind or may_begin(behind, (_OPENING, _CLOSING)) == len(behind):
            return False
        if shown[0] == "," and (behind[0].isalnum() or behind[0] in "_.-"):
            self._take(len(self._held) - len(behind))
            self._begin_call()
        else:
            self._state = "content"
        return True


def _parser(tools: Tools) -> OutputParser:
    return _Parser(tools)


def read_arguments(text: str) -> dict[str, Any] | None:
    """The arguments out of `a=1, b='x', **{"c d": 2}`; None for what is none. Values are JSON, or Python."""
    found: dict[str, Any] = {}
    pieces = split_outside(text, ",", _QUOTES)
    if not pieces[-1].strip():
        pieces.pop()
    for piece in pieces:
        name, equals, value = piece.partition("=")
        try:
            if piece.strip().startswith("**"):
                found.update(_value(piece.strip()[2:]))
            elif equals and name.strip().isidentifier():
                found[name.strip()] = _value(value)
            else:
                return None
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return None
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _literal(ast.parse(text.strip(), mode="eval").body)


def _literal(node: ast.expr) -> Any:
    """As ast.literal_eval, with JSON's words for true, false and null beside Python's, and what JSON has alone."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | int | float | bool)):
        return node.value
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) for key in node.keys if key is not None]
        if len(keys) == len(node.values) and all(isinstance(key, str) for key in keys):
            return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _literal(node.operand)
        if type(number) in (int, float):
            return -number if isinstance(node.op, ast.USub) else number
    raise ValueError("this is no value of JSON")


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    calls, rules = [], []
    for number, tool in enumerate(tools):
        calls.append(f'{json.dumps(tool.name)} "(" call_{number} ")"')
        rules += _call_rules(f"call_{number}", tool)
    more = f' (", " call){{0,{most - 1}}}' if most > 1 else ""
    opening, closing = ((spell(each) + " ") if spell(each) != json.dumps(each) else "" for each in (_OPENING, _CLOSING))
    return "\n".join([f'calls: {opening}"[" call{more} "]" {closing}', f"call: {' | '.join(calls)}", *rules])


def _call_rules(name: str, tool: Tool) -> list[str]:
    """Arguments by name, or, where they depend on each other or have other names, as `**` and JSON."""
    properties = tool.parameters.get("properties", {})
    if not is_separate(tool.parameters) or not all(key.isidentifier() for key in properties):
        return [f'{name}: "**" {name}_all', f"{name}_all: {json_rule(tool.parameters)}"]
    required = tool.parameters.get("required", ())
    arguments = [(f'"{key}=" {name}_argument_{number}', key in required) for number, key in enumerate(properties)]
    rules = [f"{name}_argument_{number}: {json_rule(schema)}" for number, schema in enumerate(properties.values())]
    return [*in_order(name, arguments, '", "'), *rules]


FORMAT = ToolFormat("pythonic", _fits, _parser, _grammar, (_OPENING, _CLOSING))
