"""The bodies of POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from inflight.triton_backend.openai.protocol.chat import Conversation
from inflight.triton_backend.openai.protocol.messages import Message
from inflight.triton_backend.openai.protocol.refusals import REFUSED_IN_CHAT
from inflight.triton_backend.openai.protocol.tools import ToolBody
from inflight.triton_backend.openai.protocol.values import Body, refused_fields

_REFUSED = ("chat_template", "media_io_kwargs", "mm_processor_kwargs")

if TYPE_CHECKING:
    _RefusingTokenize = Body
else:
    _RefusingTokenize = create_model(
        "_RefusingTokenize", __base__=Body, **refused_fields({name: REFUSED_IN_CHAT[name] for name in _REFUSED})
    )


class TokenizeBody(_RefusingTokenize):
    """POST /tokenize: a prompt, or the messages of a chat.

    `add_special_tokens` None: true for a prompt, false for messages, whose template spells them.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[ToolBody] | None = None
    return_token_strs: bool = False

    def conversation(self) -> Conversation | None:
        """The messages with what belongs to them; None for a prompt."""
        if self.messages is None:
            return None
        return Conversation.model_construct(
            messages=self.messages,
            tools=self.tools,
            add_special_tokens=bool(self.add_special_tokens),
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            chat_template_kwargs=self.chat_template_kwargs,
        )


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]
