"""Conversations as text: the chat template and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = [PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES)]

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ["system", "user", "assistant"] %}
        {{- raise_exception("the role " + message.role + " is none of system, user, assistant") }}
    {%- endif %}
    {{- "<|" + message.role + "|>" + message.content + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|assistant|>" }}
{%- endif %}
"""


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


def token_ids() -> dict[str, int]:
    """The entries of config.json and generation_config.json that name special tokens."""
    names = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
    return {name: SPECIAL_TOKENS.index(token) for name, token in names.items()}


def as_messages(question: str, system: str = "") -> list[dict[str, str]]:
    messages = [{"role": "user", "content": question}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def segments(turns: Sequence[Turn], system: str = "") -> list[tuple[str, bool]]:
    """What CHAT_TEMPLATE makes of a conversation, in pieces; the flag says which the model must learn to write."""
    pieces = [(BEGIN, False)] + ([(f"<|system|>{system}{END}", False)] if system else [])
    for turn in turns:
        pieces += [(f"<|user|>{turn.question}{END}<|assistant|>", False), (f"{turn.answer}{END}", True)]
    return pieces
