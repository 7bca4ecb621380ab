"""What tools ask of the text of an answer: how it is read, and what it has to be."""

from __future__ import annotations

from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.text.parsers.answer import AnswerFormat
from inflight.runtime.text.parsers.call_grammar import calls_grammar, calls_or_content_grammar
from inflight.runtime.text.parsers.tool_format import ToolFormat
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.openai.errors import blaming
from inflight.triton_backend.openai.protocol.tools import ToolUse

# The name of the field that asks, and for what.
Asked = tuple[str, StructuredOutputs]


def answer_format(form: ToolFormat, use: ToolUse | None) -> AnswerFormat:
    """Without tools the whole text is content."""
    if use is None:
        return AnswerFormat()
    most = 1 if use.most == 1 else None
    return AnswerFormat(lambda: form.parser(use.tools), form.markers, most, form.new_call_id)


def structure_with_tools(
    form: ToolFormat, use: ToolUse | None, asked: Asked | None, tokenizer: Tokenizer
) -> Asked | None:
    """The structured output of an answer for which `asked` is asked: forced calls are of the grammar of the family's
    form, and the content has none then. Where the model may choose, content is as it was asked for, or it calls.

    Raises ApiError (400) for what cannot be asked for beside tools.
    """
    if use is None or (asked is None and not use.is_forced):
        return asked
    if asked is None or use.is_forced:
        with blaming("tools"):
            return "tools", StructuredOutputs(grammar=calls_grammar(form, use.tools, use.most, tokenizer))
    name, content = asked
    with blaming(name):
        grammar = calls_or_content_grammar(form, use.tools, use.most, tokenizer, content)
        return name, StructuredOutputs(grammar=grammar)
