"""Qwen3-Coder, Qwen3-Next and others: <tool_call> with <function=NAME> in it, and each argument as the text between
<parameter=NAME> and </parameter>, on lines of its own."""

from __future__ import annotations

import json

from inflight.runtime.text.parsers.argument_schemas import is_simple, simple_arguments
from inflight.runtime.text.parsers.block_parser import BlockParser
from inflight.runtime.text.parsers.function_block import FunctionBlock
from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, Tool, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.hermes import CLOSING, OPENING
from inflight.runtime.text.parsers.tools.json_calls import json_call_grammar

_FUNCTION = "<function="


def _fits(template: str) -> bool:
    return _FUNCTION in template and "<parameter=" in template


def _parser(tools: Tools) -> OutputParser:
    """Models leave out <tool_call> at times."""
    return BlockParser(FunctionBlock, tools, [OPENING, _FUNCTION], CLOSING, _FUNCTION)


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
    arguments, rules = simple_arguments(name, tool.parameters)
    shown = []
    for each in arguments:
        value = f'{each.value} "\\n</parameter>\\n"' if each.value else 'text "\\n"'
        shown.append(f"({json.dumps(f'<parameter={each.key}>{chr(10)}')} {value})" + ("" if each.is_required else "?"))
    begin = json.dumps(f"{_FUNCTION}{tool.name}>\n")
    return [f'{name}: {" ".join([begin, *shown])} "</function>"', *rules]


FORMAT = ToolFormat("qwen3_coder", _fits, _parser, _grammar, (OPENING, CLOSING))
