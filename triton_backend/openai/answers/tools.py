"""What tools ask of the text of an answer."""

from __future__ import annotations

from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.text.chat.tool_use import ToolUse
from inflight.runtime.text.parsers.tool_format import ToolFormat
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.openai.errors import blaming

# The name of the field that asks, and for what.
Asked = tuple[str, StructuredOutputs]


def structure_with_tools(
    form: ToolFormat, use: ToolUse | None, asked: Asked | None, tokenizer: Tokenizer
) -> Asked | None:
    """The structured output of an answer for which `asked` is asked, and the field that is to blame for it. Raises
    ApiError (400) for what cannot be asked for beside tools.
    """
    if use is None:
        return asked
    name = "tools" if asked is None or use.is_forced else asked[0]
    with blaming(name):
        outputs = use.structure(form, None if asked is None else asked[1], tokenizer)
    return None if outputs is None else (name, outputs)
