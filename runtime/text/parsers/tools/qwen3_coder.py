"""Qwen3-Coder, Qwen3-Next and others: <tool_call> with <function=NAME> in it, and each argument as the text between
<parameter=NAME> and </parameter>, on lines of its own."""

from __future__ import annotations

import json

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.argument_schemas import is_simple
from inflight.runtime.text.parsers.function_block import FunctionBlock, is_text
from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, Tool, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.hermes import CLOSING, OPENING
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser, json_call_grammar

_FUNCTION = "<function="


def _fits(template: str) -> bool:
    return _FUNCTION in template and "<parameter=" in template


class _Parser(JsonCallParser):
    """Models leave out <tool_call> at times, and may write JSON in it."""

    def __init__(self, tools: Tools) -> None:
        super().__init__([OPENING, _FUNCTION], CLOSING)
        self._schemas = {tool.name: tool.parameters.get("properties", {}) for tool in tools}

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        if opened_by == _FUNCTION:
            return FunctionBlock(index, self._schemas, is_open=True)
        if self._held.startswith("{"):
            return super()._reader(index, opened_by)
        return FunctionBlock(index, self._schemas)


def _parser(tools: Tools) -> OutputParser:
    return _Parser(tools)


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    blocks = [tool for tool in tools if is_simple(tool.parameters)]
    others = [tool for tool in tools if not is_simple(tool.parameters)]
    rules = [
        f'calls: marked ("\\n" marked){{0,{most - 1}}}' if most > 1 else "calls: marked",
        f'marked: {spell(OPENING)} "\\n" ({" | ".join(["block"] * bool(blocks) + ["call"] * bool(others))}) "\\n" '
        f"{spell(CLOSING)}",
    ]
    if blocks:
        rules.append("block: " + " | ".join(f"block_{number}" for number in range(len(blocks))))
        # Up to the first closing mark, which ends the text for the parser, too.
        rules.append("text[lazy]: /(?s:.*)<\\/parameter>/")
        for number, tool in enumerate(blocks):
            rules += _block_rules(f"block_{number}", tool)
    if others:
        rules.append(json_call_grammar(others, "arguments"))
    return "\n".join(rules)


def _block_rules(name: str, tool: Tool) -> list[str]:
    """The arguments in the order of the schema, those that are not required or left out."""
    required = tool.parameters.get("required", ())
    arguments, rules = [], []
    for number, (key, schema) in enumerate(tool.parameters.get("properties", {}).items()):
        begin = json.dumps(f"<parameter={key}>\n")
        if not is_text(schema):
            rules.append(f"{name}_{number}: {json_rule(schema)}")
            body = f'{begin} {name}_{number} "\\n</parameter>\\n"'
        elif "enum" in schema:
            body = f'{begin} ({" | ".join(map(json.dumps, schema["enum"]))}) "\\n</parameter>\\n"'
        else:
            body = f'{begin} text "\\n"'
        arguments.append(f"({body})" + ("" if key in required else "?"))
    begin = json.dumps(f"{_FUNCTION}{tool.name}>\n")
    return [f'{name}: {" ".join([begin, *arguments])} "</function>"', *rules]


FORMAT = ToolFormat("qwen3_coder", _fits, _parser, _grammar, (OPENING, CLOSING))
