"""For templates that teach no form of calls, which are told of Hermes's (see runtime/text/chat/tool_messages.py), and
for those that teach one without a row here: Hermes's, or an answer that is JSON of a call and nothing else."""

from __future__ import annotations

from inflight.runtime.text.parsers.parts import OutputParser
from inflight.runtime.text.parsers.tool_format import ToolFormat, Tools
from inflight.runtime.text.parsers.tools import hermes
from inflight.runtime.text.parsers.tools.json_calls import JsonCallParser


def _parser(tools: Tools) -> OutputParser:
    return JsonCallParser([hermes.OPENING], hermes.CLOSING, frozenset(tool.name for tool in tools))


FORMAT = ToolFormat("generic", lambda template: True, _parser, hermes.grammar, (hermes.OPENING, hermes.CLOSING))
