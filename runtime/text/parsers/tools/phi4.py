"""Phi-4-mini: a list of JSON objects between <|tool_call|> and <|/tool_call|>, or behind the word functools."""

from __future__ import annotations

from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import JsonCallParser, json_call_list

_OPENING, _CLOSING, _WORD = "<|tool_call|>", "<|/tool_call|>", "functools"


def _fits(template: str) -> bool:
    return "<|tool|>" in template or f"{_WORD}[" in template


def _parser(tools: Tools) -> OutputParser:
    return JsonCallParser([_OPENING, _WORD], _CLOSING)


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    return json_call_list(tools, most, spell(_OPENING), spell(_CLOSING))


FORMAT = ToolFormat("phi4_mini_json", _fits, _parser, _grammar, (_OPENING, _CLOSING))
