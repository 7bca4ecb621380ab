"""gpt-oss, in OpenAI's harmony format: a message to functions.NAME, whose text is JSON."""

from __future__ import annotations

import json
import re
from functools import partial

from inflight.runtime.structured.json_grammar import json_rule
from inflight.runtime.text.parsers.named_call import Header, NamedCall
from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.reasoning.harmony import CHANNEL, CONSTRAIN, ENDS, MARKERS, MESSAGE, START
from inflight.runtime.text.parsers.tool_format import Spell, ToolFormat, Tools
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser

_FUNCTIONS = "to=functions."
_RECIPIENT = re.compile(r"to=functions\.([^\s<>{}]+)")


def _fits(template: str) -> bool:
    return all(marker in template for marker in (START, CHANNEL, MESSAGE))


def _header(opened_by: str, text: str) -> Header:
    """`text` from the marker to the opening brace of what should be the arguments."""
    header, _, body = (opened_by + text).rpartition(MESSAGE)
    found = _RECIPIENT.search(header)
    return Header("" if found is None or body.strip() or MESSAGE in header else found[1])


class _Parser(JsonCallParser):
    def __init__(self) -> None:
        super().__init__([START, CHANNEL, _FUNCTIONS], None, ends=ENDS)

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        return NamedCall(index, partial(_header, opened_by or ""), MESSAGE)


def _parser(tools: Tools) -> OutputParser:
    return _Parser()


def _grammar(tools: Tools, most: int, spell: Spell) -> str:
    """One call, whatever `most` is: <|call|> ends the answer. The recipient comes before the channel, as the family's
    template has it in earlier calls, so that an analysis, which begins with the channel, can be told from a call."""
    calls, rules = [], []
    for number, tool in enumerate(tools):
        recipient = json.dumps(f" {_FUNCTIONS}{tool.name}")
        body = f'"commentary " {spell(CONSTRAIN)} "json" {spell(MESSAGE)} arguments_{number}'
        calls.append(f"{recipient} {spell(CHANNEL)} {body}")
        rules.append(f"arguments_{number}: {json_rule(tool.parameters)}")
    return "\n".join([f"calls: {' | '.join(calls)}", *rules])


FORMAT = ToolFormat("openai", _fits, _parser, _grammar, MARKERS)
