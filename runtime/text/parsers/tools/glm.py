"""GLM 4.5 and later: the name within <tool_call>, and <arg_key> and <arg_value> for each argument."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.argument_schemas import is_simple
from inflight.runtime.text.parsers.function_block import FunctionBlock, is_text
from inflight.runtime.text.parsers.marked_text import first_marker, may_begin
from inflight.runtime.text.parsers.parts import OutputParser, Part, ToolCallArguments, ToolCallStart
from inflight.runtime.text.parsers.tool_format import Spell, Tool, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.hermes import CLOSING, OPENING
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser, json_call_grammar

_KEY, _END_KEY, _VALUE, _END_VALUE = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_LONGEST = 256


def _fits(template: str) -> bool:
    return OPENING in template and _KEY in template


class _Block(FunctionBlock):
    """The block ends before the closing marker, which belongs to whoever has read the opening one."""

    def __init__(self, index: int, schemas: Mapping[str, Any]) -> None:
        super().__init__(index, schemas, is_open=True)

    def _read_name(self, text: str, at: int, parts: list[Part]) -> int | None:
        ends = ("\n", _KEY, CLOSING)
        found = first_marker(text[at:], ends)
        # What may yet become a marker is no part of the name.
        end = len(text) - may_begin(text[at:], ends) if found is None else at + found[0]
        name = text[at:end].strip()
        is_none = found is not None and not name
        self.is_over = is_none or len(name) > _LONGEST or any(mark in name for mark in '{}"\n ')
        if found is None or self.is_over:
            return None
        own = self._schemas.get(name)
        self._own = own if isinstance(own, Mapping) else {}
        self.has_begun, self._state = True, "arguments"
        parts.append(ToolCallStart(self._index, name))
        parts.append(ToolCallArguments(self._index, "{"))
        return at + found[0]

    def _read_arguments(self, text: str, at: int, parts: list[Part]) -> int | None:
        found = first_marker(text[at:], (_KEY, CLOSING))
        if found is None:
            return None
        if found[1] == CLOSING:
            parts.append(ToolCallArguments(self._index, "}"))
            self.is_over = True
            return at + found[0]
        self._state = "key"
        return at + found[0] + len(_KEY)

    def _read_key(self, text: str, at: int, parts: list[Part]) -> int | None:
        key, is_whole, rest = text[at:].partition(_END_KEY)
        behind = rest.lstrip()
        if not is_whole or not behind.startswith(_VALUE):
            if is_whole and not _VALUE.startswith(behind):
                # A key without a value is no argument.
                self._state = "arguments"
                return len(text) - len(rest)
            return None
        self._begin_value(key.strip(), parts)
        return len(text) - len(behind) + len(_VALUE)

    def _read_value(self, text: str, at: int, parts: list[Part]) -> int | None:
        rest = text[at:]
        found = first_marker(rest, (_END_VALUE,))
        end = len(rest) - may_begin(rest, (_END_VALUE,)) if found is None else found[0]
        self._take(rest[:end], parts)
        if found is None:
            return at + end if end else None
        self._end_value(parts)
        self._state = "arguments"
        return at + end + len(_END_VALUE)


class _Parser(JsonCallParser):
    def __init__(self, tools: Tools) -> None:
        super().__init__([OPENING], CLOSING)
        self._schemas = {tool.name: tool.parameters.get("properties", {}) for tool in tools}

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        return super()._reader(index, opened_by) if self._held.startswith("{") else _Block(index, self._schemas)


def _parser(tools: Tools) -> OutputParser:
    return _Parser(tools)


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
    required = tool.parameters.get("required", ())
    arguments, rules = [], []
    for number, (key, schema) in enumerate(tool.parameters.get("properties", {}).items()):
        value = f"{name}_{number} {spell(_END_VALUE)}"
        if not is_text(schema):
            rules.append(f"{name}_{number}: {json_rule(schema)}")
        elif "enum" in schema:
            rules.append(f"{name}_{number}: {' | '.join(map(json.dumps, schema['enum']))}")
        else:
            value = "string"
        begin = f'{spell(_KEY)} {json.dumps(key)} {spell(_END_KEY)} "\\n" {spell(_VALUE)}'
        arguments.append(f'({begin} {value} "\\n")' + ("" if key in required else "?"))
    return [f'{name}: {json.dumps(tool.name)} "\\n" {" ".join(arguments)}', *rules]


FORMAT = ToolFormat("glm45", _fits, _parser, _grammar, (OPENING, CLOSING, _KEY, _END_KEY, _VALUE, _END_VALUE))
