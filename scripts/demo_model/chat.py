"""Conversations as text: the chat template and its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = [PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES)]

# Tools stand in the system message as `find_function(description)`: their names and their parameters, `module?` where
# one may be left out. Calls have Hermes's form, and a result is told by the user, so that no role needs a token.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == "system" else "" %}
{%- if tools or messages[0].role == "system" %}
    {{- "<|system|>" + system }}
    {%- if tools %}
        {{- ("\\n" if system else "") + "Tools: " }}
        {%- for tool in tools %}
            {%- set function = tool.function if tool.function is defined else tool %}
            {%- set parameters = function.parameters or {} %}
            {{- function.name + "(" }}
            {%- for name in parameters.properties or {} %}
                {{- name + ("" if name in (parameters.required or []) else "?") + ("" if loop.last else ", ") }}
            {%- endfor %}
            {{- ")" + ("" if loop.last else ", ") }}
        {%- endfor %}
    {%- endif %}
    {{- eos_token }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "tool" %}
        {{- "<|user|><tool_response>\\n" + message.content + "\\n</tool_response>" + eos_token }}
    {%- elif message.role == "assistant" and message.tool_calls %}
        {{- "<|assistant|>" + ((message.content + "\\n") if message.content else "") }}
        {%- for call in message.tool_calls %}
            {%- set function = call.function if call.function is defined else call %}
            {{- "<tool_call>\\n" + {"name": function.name, "arguments": function.arguments} | tojson }}
            {{- "\\n</tool_call>" + ("" if loop.last else "\\n") }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role in ["user", "assistant"] %}
        {{- "<|" + message.role + "|>" + message.content + eos_token }}
    {%- elif message.role != "system" or not loop.first %}
        {{- raise_exception("the role " + message.role + " is none of user, assistant, tool, and system at first") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|assistant|>" }}
{%- endif %}
"""

Tool = Mapping[str, Any]


class Turn(NamedTuple):
    """A question and its answer. `begun`: the part of the answer that is given, behind which the model goes on."""

    question: str
    answer: str
    begun: str = ""


def token_ids() -> dict[str, int]:
    """The entries of config.json and generation_config.json that name special tokens."""
    names = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
    return {name: SPECIAL_TOKENS.index(token) for name, token in names.items()}


def as_messages(question: str, system: str = "") -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": question}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """What CHAT_TEMPLATE makes of a call, and what the model writes to make one."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def result_text(content: str) -> str:
    """What CHAT_TEMPLATE makes of the content of a tool's message; it stands where a question would."""
    return f"<tool_response>\n{content}\n</tool_response>"


def segments(turns: Sequence[Turn], system: str = "", tools: Sequence[Tool] = ()) -> list[tuple[str, bool]]:
    """What CHAT_TEMPLATE makes of a conversation, in pieces; the flag says which the model must learn to write."""
    if tools:
        system = f"{system}\n" * bool(system) + "Tools: " + ", ".join(map(_tool_text, tools))
    pieces = [(BEGIN, False)] + ([(f"<|system|>{system}{END}", False)] if system else [])
    for turn in turns:
        pieces += [(f"<|user|>{turn.question}{END}<|assistant|>{turn.begun}", False), (f"{turn.answer}{END}", True)]
    return pieces


def _tool_text(tool: Tool) -> str:
    return f"{tool['function']['name']}({', '.join(_parameters(tool['function'].get('parameters', {})))})"


def _parameters(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    for name in schema.get("properties", {}):
        yield name if name in required else f"{name}?"
