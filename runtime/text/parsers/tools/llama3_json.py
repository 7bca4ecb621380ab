"""Llama 3.1 to 3.3: the whole answer is {"name": ..., "parameters": {...}}, with <|python_tag|> before it or without,
and further ones behind semicolons."""

from __future__ import annotations

from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import JsonCallParser, json_call_grammar

_MARKER = "<|python_tag|>"


def _fits(template: str) -> bool:
    return _MARKER in template or '{"name": function name, "parameters": dictionary' in template


def _parser(tools: Tools) -> OutputParser:
    return JsonCallParser([_MARKER], None, frozenset(tool.name for tool in tools))


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    first = f'calls: call ("; " call){{0,{most - 1}}}' if most > 1 else "calls: call"
    return f"{first}\n{json_call_grammar(tools, 'parameters')}"


FORMAT = ToolFormat("llama3_json", _fits, _parser, _grammar, (_MARKER,))
