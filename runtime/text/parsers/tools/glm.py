"""GLM 4.5 and later: the name within <tool_call>, and <arg_key> and <arg_value> for each argument."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from inflight.runtime.text.parsers.argument_schemas import is_simple, simple_arguments
from inflight.runtime.text.parsers.block_parser import BlockParser
from inflight.runtime.text.parsers.function_block import LONGEST_NAME, FunctionBlock
from inflight.runtime.text.parsers.marked_text import first_marker, may_begin
from inflight.runtime.text.parsers.parts import OutputParser, Part
from inflight.runtime.text.parsers.tool_format import Spell, Tool, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.hermes import CLOSING, OPENING
from inflight.runtime.text.parsers.tools.json_calls import json_call_grammar

_KEY, _END_KEY, _VALUE, _END_VALUE = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_BLANK = re.compile(r"\s*")


def _fits(template: str) -> bool:
    return OPENING in template and _KEY in template


class _Block(FunctionBlock):
    """The block ends before the closing marker, which belongs to whoever has read the opening one."""

    _ends = (_END_VALUE,)
    _begins_line = False

    def __init__(self, index: int, schemas: Mapping[str, Any]) -> None:
        super().__init__(index, schemas, is_open=True)

    def _read_name(self, text: str, at: int, parts: list[Part]) -> int | None:
        ends = ("\n", _KEY, CLOSING)
        found = first_marker(text, ends, at)
        # What may yet become a marker is no part of the name.
        end = len(text) - may_begin(text, ends, at) if found is None else found[0]
        name = text[at:end].strip()
        is_none = found is not None and not name
        self.is_over = is_none or len(name) > LONGEST_NAME or any(mark in name for mark in '{}"\n ')
        if found is None or self.is_over:
            return None
        self._begin(name, parts)
        return found[0]

    def _read_arguments(self, text: str, at: int, parts: list[Part]) -> int | None:
        return self._read_between(text, at, parts, _KEY, CLOSING, 0)

    def _read_key(self, text: str, at: int, parts: list[Part]) -> int | None:
        end = text.find(_END_KEY, at, at + LONGEST_NAME + len(_END_KEY))
        if end < 0:
            return self._leave_key(text, at, LONGEST_NAME + len(_END_KEY))
        behind = _BLANK.match(text, end + len(_END_KEY))
        assert behind is not None
        if behind.end() - end < LONGEST_NAME:
            if text.startswith(_VALUE, behind.end()):
                self._begin_value(text[at:end].strip(), parts)
                return behind.end() + len(_VALUE)
            if _VALUE.startswith(text[behind.end() : behind.end() + len(_VALUE)]):
                return None
        # A key without a value is no argument.
        self._state = "arguments"
        return end + len(_END_KEY)


def _parser(tools: Tools) -> OutputParser:
    return BlockParser(_Block, tools, [OPENING], CLOSING)


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    blocks = [tool for tool in tools if is_simple(tool.parameters)]
    others = [tool for tool in tools if not is_simple(tool.parameters)]
    inner = " | ".join([*(f"block_{number}" for number in range(len(blocks))), *(["call"] if others else [])])
    rules = [
        f'calls: marked ("\\n" marked){{0,{most - 1}}}' if most > 1 else "calls: marked",
        f"marked: {spell(OPENING)} ({inner}) {spell(CLOSING)}",
    ]
    is_token = spell(_END_VALUE) != json.dumps(_END_VALUE)
    if blocks:
        # Up to the first closing mark, which ends the text for the parser, too.
        rules.append(f"string: text {spell(_END_VALUE) if is_token else ''}")
        rules.append("text: /(?s:.*)/" if is_token else "text[lazy]: /(?s:.*)<\\/arg_value>/")
    for number, tool in enumerate(blocks):
        rules += _block_rules(f"block_{number}", tool, spell)
    return "\n".join([*rules, *([json_call_grammar(others, "arguments")] if others else [])])


def _block_rules(name: str, tool: Tool, spell: Spell) -> list[str]:
    """The arguments in the order of the schema, those that are not required or left out."""
    arguments, rules = simple_arguments(name, tool.parameters)
    shown = []
    for each in arguments:
        value = f"{each.value} {spell(_END_VALUE)}" if each.value else "string"
        begin = f'{spell(_KEY)} {json.dumps(each.key)} {spell(_END_KEY)} "\\n" {spell(_VALUE)}'
        shown.append(f'({begin} {value} "\\n")' + ("" if each.is_required else "?"))
    return [f'{name}: {json.dumps(tool.name)} "\\n" {" ".join(shown)}', *rules]


FORMAT = ToolFormat("glm45", _fits, _parser, _grammar, (OPENING, CLOSING, _KEY, _END_KEY, _VALUE, _END_VALUE))
