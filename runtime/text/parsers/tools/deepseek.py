"""DeepSeek V3 and R1, with a fence around the arguments, and V3.1, without."""

from __future__ import annotations

import json
import re

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.named_call import Header, NamedCall
from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser

_CALLS, _END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_FENCE = "```"
_MARKERS = (_CALLS, _END_CALLS, _CALL, _END_CALL, _SEPARATOR)
_NAME = r"([^\s<>{}`]+)"
_HEADER = re.compile(
    rf"\s*(?:{_CALL}\s*)?(?:function{_SEPARATOR}{_NAME}\s*```(?:json)?|{_NAME}{_SEPARATOR}(?:\s*```(?:json)?)?)\s*"
)


def _header(text: str) -> Header:
    found = _HEADER.fullmatch(text)
    return Header("" if found is None else found[1] or found[2])


class _Parser(JsonCallParser):
    def __init__(self) -> None:
        super().__init__([_CALLS, _CALL], None, ends=(_FENCE, _END_CALL, _END_CALLS))

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        return NamedCall(index, _header)


def _parser(tools: Tools) -> OutputParser:
    return _Parser()


def _calls(tools: Tools, most: int, spell: Spell, is_fenced: bool) -> str:
    calls, rules = [], []
    for number, tool in enumerate(tools):
        name, separator, arguments = json.dumps(tool.name), spell(_SEPARATOR), f"arguments_{number}"
        fenced = f'"function" {separator} {name} "\\n{_FENCE}json\\n" {arguments} "\\n{_FENCE}"'
        calls.append(fenced if is_fenced else f"{name} {separator} {arguments}")
        rules.append(f"{arguments}: {json_rule(tool.parameters)}")
    one = f"{spell(_CALL)} call {spell(_END_CALL)}"
    between = '"\\n" ' if is_fenced else ""
    more = f" ({between}{one}){{0,{most - 1}}}" if most > 1 else ""
    first = f"calls: {spell(_CALLS)} {one}{more} {spell(_END_CALLS)}"
    return "\n".join([first, f"call: {' | '.join(calls)}", *rules])


V3 = ToolFormat(
    "deepseek_v3",
    lambda template: _SEPARATOR in template and _FENCE in template,
    _parser,
    lambda tools, most, spell: _calls(tools, most, spell, True),
    _MARKERS,
)
V31 = ToolFormat(
    "deepseek_v31",
    lambda template: _SEPARATOR in template and _FENCE not in template,
    _parser,
    lambda tools, most, spell: _calls(tools, most, spell, False),
    _MARKERS,
)
