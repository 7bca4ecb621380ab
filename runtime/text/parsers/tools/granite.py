"""Granite 3: a list of JSON objects behind <|tool_call|> or <tool_call>, or as the whole answer."""

from __future__ import annotations

from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import JsonCallParser, json_call_list

_MARKER = "<|tool_call|>"


def _fits(template: str) -> bool:
    return _MARKER in template


def _parser(tools: Tools) -> OutputParser:
    return JsonCallParser([_MARKER, "<tool_call>"], None, frozenset(tool.name for tool in tools))


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    return json_call_list(tools, most, spell(_MARKER), "")


FORMAT = ToolFormat("granite", _fits, _parser, _grammar, (_MARKER,))
