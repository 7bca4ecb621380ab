"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from inflight.sampling_parameters import MAX_LOGPROBS
from inflight.triton_backend.openai.protocol.generation import GenerationBody
from inflight.triton_backend.openai.protocol.messages import Message
from inflight.triton_backend.openai.protocol.refusals import REFUSED_IN_CHAT
from inflight.triton_backend.openai.protocol.tools import ToolFields, read_tools
from inflight.triton_backend.openai.protocol.values import refused_fields


class Conversation(ToolFields):
    """Messages, and how a chat template makes a prompt of them, with the tools that may be called.

    `add_generation_prompt` None: true, unless the last message is to be continued. `documents` go to the template.
    """

    messages: list[Message] = Field(min_length=1)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def template_options(self) -> dict[str, Any]:
        """What Tokenizer.encode_chat takes beside the messages."""
        begins_answer = self.add_generation_prompt
        asked = {
            "continue_final_message": self.continue_final_message,
            "add_special_tokens": self.add_special_tokens,
            "documents": self.documents,
            "tools": self.tools_for_template(),
        }
        return {
            "add_generation_prompt": not self.continue_final_message if begins_answer is None else begins_answer,
            "adapt_tools": True,
            **{name: value for name, value in asked.items() if value},
            **(self.chat_template_kwargs or {}),
        }

    def tools_for_template(self) -> list[dict[str, Any]] | None:
        """Raises ApiError (400) as read_tools does."""
        use = read_tools(self)
        return None if use is None else [dict(each) for each in use.chosen]


if TYPE_CHECKING:
    _RefusingChat = GenerationBody
else:
    _RefusingChat = create_model("_RefusingChat", __base__=GenerationBody, **refused_fields(REFUSED_IN_CHAT))


class ChatBody(_RefusingChat, Conversation):
    """POST /v1/chat/completions.

    `thinking_token_budget`: the most tokens of reasoning, -1 for any number. `include_reasoning` false leaves it out of
    the answer. As SGLang has them, `separate_reasoning` false leaves it in the content, with its markers, and
    `stream_reasoning` false sends it in one piece.
    """

    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    separate_reasoning: bool = True
    stream_reasoning: bool = True
    thinking_token_budget: int | None = Field(None, ge=-1)
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: list[Literal["text"]] | None = None

    def template_options(self) -> dict[str, Any]:
        """As of Conversation. `reasoning_effort` and `verbosity` are variables of the template, and an effort says
        whether to think at all, by the name that templates use for that."""
        wanted: dict[str, Any] = {"reasoning_effort": self.reasoning_effort, "verbosity": self.verbosity}
        if self.reasoning_effort is not None:
            wanted["enable_thinking"] = self.reasoning_effort != "none"
        return {**{name: value for name, value in wanted.items() if value is not None}, **super().template_options()}

    def begun_answer(self) -> str | None:
        """The text of the message that is to be continued, if one is."""
        content = self.messages[-1].as_dict()["content"] if self.continue_final_message else None
        return "".join(part["text"] for part in content) if isinstance(content, list) else content
