"""Grammars of answers that call tools."""

from __future__ import annotations

import json

from inflight.errors import RequestError
from inflight.runtime.structured.json_grammar import json_rule, one_of, regex_rule, special_token
from inflight.runtime.structured.outputs import MAX_CHARACTERS, StructuredOutputs
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
    for tool in tools:
        if (length := len(json.dumps(tool.parameters, ensure_ascii=False))) > MAX_CHARACTERS:
            raise RequestError(
                f"The parameters of the tool {tool.name!r} have {length} characters of JSON schema; calls that are"
                f" forced can be of {MAX_CHARACTERS} at most.",
                "Shorten the schema, or let tool_choice be auto.",
            )

    def spell(marker: str) -> str:
        return special_token(marker, tokenizer) or json.dumps(marker)

    grammar = form.grammar(tools, most, spell)
    if len(grammar) > MAX_CHARACTERS:
        longest = max(tools, key=lambda tool: len(json.dumps(tool.parameters)))
        raise RequestError(
            f"The JSON schemas of the {len(tools)} tools are too long together to force calls of them: the grammar has"
            f" {len(grammar)} characters, {MAX_CHARACTERS} are possible. The longest is that of {longest.name!r}.",
            "Allow fewer tools (tool_choice of the type allowed_tools), or shorten their schemas.",
        )
    return grammar


def _body(content: StructuredOutputs) -> str:
    if content.json is not None:
        return json_rule(json.loads(content.value))
    if content.json_object:
        return json_rule({"type": "object"})
    if content.choice is not None:
        return one_of(content.choice)
    if content.regex is not None:
        return regex_rule(content.regex)
    raise RequestError(
        "A grammar for the content cannot be used beside tools: the two would have to be one grammar.",
        "Use a JSON schema, a regular expression or a choice, or set tool_choice to none.",
    )
