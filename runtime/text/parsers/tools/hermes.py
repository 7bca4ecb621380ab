"""Hermes, Qwen 2.5, Qwen 3, SmolLM3, Granite 4 and many others: an object of JSON between <tool_call> and
</tool_call>."""

from __future__ import annotations

from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import JsonCallParser, marked_calls

OPENING, CLOSING = "<tool_call>", "</tool_call>"


def _fits(template: str) -> bool:
    """GLM and Qwen3-Coder have the same markers around other things."""
    return OPENING in template and "<arg_key>" not in template and "<function=" not in template


def _parser(tools: Tools) -> OutputParser:
    return JsonCallParser([OPENING], CLOSING)


def grammar(tools: Tools, most: int, spell: Spell) -> str:
    return marked_calls(tools, most, OPENING, CLOSING, "arguments", spell)


FORMAT = ToolFormat("hermes", _fits, _parser, grammar, (OPENING, CLOSING))
