"""Grammars of answers that call tools."""

from __future__ import annotations

import json
import re

from inflight.errors import RequestError
from inflight.runtime.structured.json_grammar import json_rule, special_token
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.text.parsers.tool_format import ToolFormat, Tools
from inflight.runtime.text.tokenizer import Tokenizer


def calls_grammar(form: ToolFormat, tools: Tools, most: int, tokenizer: Tokenizer) -> str:
    """In Lark's syntax, an answer that is calls and nothing else: one at least, `most` at most."""
    return f"start: calls\n{_calls(form, tools, most, tokenizer)}"


def calls_or_content_grammar(
    form: ToolFormat, tools: Tools, most: int, tokenizer: Tokenizer, content: StructuredOutputs
) -> str:
    """In Lark's syntax, an answer that is such calls, or else `content`. Raises RequestError for content that is of a
    grammar, which may use the same names."""
    return f"start: calls | own_content\nown_content: {_body(content)}\n{_calls(form, tools, most, tokenizer)}"


def _calls(form: ToolFormat, tools: Tools, most: int, tokenizer: Tokenizer) -> str:
    def spell(marker: str) -> str:
        return special_token(marker, tokenizer) or json.dumps(marker)

    return form.grammar(tools, most, spell)


def _body(content: StructuredOutputs) -> str:
    if content.json is not None:
        return json_rule(json.loads(content.value))
    if content.json_object:
        return json_rule({"type": "object"})
    if content.choice is not None:
        return " | ".join(map(json.dumps, content.choice))
    if content.regex is not None:
        # As Lark writes one: slashes and line breaks by their escapes, where they have none yet.
        return "/(?:" + re.sub(r"\\.|[/\n]", _escaped, content.regex, flags=re.DOTALL) + ")/"
    raise RequestError(
        "A grammar for the content cannot be used beside tools: the two would have to be one grammar.",
        "Use a JSON schema, a regular expression or a choice, or set tool_choice to none.",
    )


def _escaped(found: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n"}.get(found[0], found[0])
