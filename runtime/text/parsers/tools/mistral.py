"""Mistral: [TOOL_CALLS] and a list of JSON objects, or, newer, [TOOL_CALLS]NAME[ARGS]{...} for each call."""

from __future__ import annotations

import json
import re
import secrets
import string

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.named_call import Header, NamedCall
from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import Spell, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser, json_call_list

_OPENING, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_HEADER = re.compile(r"\s*([^\s\[\]{}\"',:]+)\s*(?:\[CALL_ID\]\s*(\w*)\s*)?(?:\[ARGS\]\s*)?")


def _fits(template: str) -> bool:
    return _OPENING in template


def _header(text: str) -> Header:
    found = _HEADER.fullmatch(text)
    return Header("") if found is None else Header(found[1], found[2] or None)


class _Parser(JsonCallParser):
    def __init__(self) -> None:
        super().__init__([_OPENING], None)

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        return super()._reader(index, opened_by) if self._held.startswith("{") else NamedCall(index, _header)


def _parser(tools: Tools) -> OutputParser:
    return _Parser()


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    """The newer form where the vocabulary has its marker as a token."""
    if spell(_ARGUMENTS) == json.dumps(_ARGUMENTS):
        return json_call_list(tools, most, spell(_OPENING), "")
    calls, rules = [], []
    for number, tool in enumerate(tools):
        calls.append(f"{json.dumps(tool.name)} {spell(_ARGUMENTS)} arguments_{number}")
        rules.append(f"arguments_{number}: {json_rule(tool.parameters)}")
    first = f"calls: {spell(_OPENING)} call"
    more = f" ({spell(_OPENING)} call){{0,{most - 1}}}" if most > 1 else ""
    return "\n".join([first + more, f"call: {' | '.join(calls)}", *rules])


def _new_call_id() -> str:
    """Nine letters and digits: Mistral's templates take no other id."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


FORMAT = ToolFormat("mistral", _fits, _parser, _grammar, (_OPENING, _ARGUMENTS, _ID), _new_call_id)
