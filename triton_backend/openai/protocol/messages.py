"""The messages of a chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import create_model, model_validator

from inflight.triton_backend.openai.protocol.refusals import MEDIA, REFUSED_IN_MESSAGES
from inflight.triton_backend.openai.protocol.tool_history import ToolCallBody
from inflight.triton_backend.openai.protocol.values import Body, refused_fields, refusing, string_or

# Kinds of parts that OpenAI's and vLLM's APIs know beside text.
_MEDIA_KINDS = ("image_url", "input_image", "input_audio", "audio_url", "video_url", "file", "input_file")


# What a message has beside its content that templates read as it is.
_FURTHER = ("name", "reasoning", "reasoning_content", "thinking", "tool_call_id")


class Part(Body):
    """A part of a message's content. The marks of caches, which change no answer, are allowed."""

    type: Annotated[Literal["text", "input_text", "output_text", "refusal"], refusing(MEDIA, *_MEDIA_KINDS)]
    text: str | None = None
    refusal: str | None = None
    prompt_cache_breakpoint: Any = None
    cache_control: Any = None

    @model_validator(mode="after")
    def _has_text(self) -> Part:
        key = "refusal" if self.type == "refusal" else "text"
        if getattr(self, key) is None:
            raise ValueError(f"a part of type '{self.type}' needs '{key}'")
        return self

    @property
    def shown(self) -> str:
        """The text that the model reads."""
        return (self.refusal if self.type == "refusal" else self.text) or ""


if TYPE_CHECKING:
    _Content = str | list[Part]
    _RefusingMessage = Body
else:
    # Not a union, whose errors would name the types that it tried as if they were keys.
    _Content = Annotated[list[Part], string_or("parts")]
    _RefusingMessage = create_model("_RefusingMessage", __base__=Body, **refused_fields(REFUSED_IN_MESSAGES))


class Message(_RefusingMessage):
    """One message, as a client wrote it or as this server answered.

    `annotations` name the sources of an earlier answer and are not part of its text. Templates read the reasoning of an
    earlier answer under one of several names.
    """

    role: str
    content: _Content | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    annotations: list[Any] | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        """An answer may be empty, as OpenAI's that call tools are."""
        if self.content is None and self.refusal is None and self.role != "assistant":
            # pydantic cannot write a message with half of a surrogate pair.
            role = self.role.encode(errors="replace").decode()
            raise ValueError(f"a message of the role '{role}' needs 'content'")
        return self

    def as_dict(self) -> dict[str, Any]:
        """The message as Tokenizer.encode_chat takes it; a refusal stands for content that is missing."""
        content: Any = (self.refusal or "") if self.content is None else self.content
        if isinstance(content, list):
            content = [{"type": "text", "text": part.shown} for part in content]
        rest = {name: getattr(self, name) for name in _FURTHER}
        given: dict[str, Any] = {name: value for name, value in rest.items() if value}
        if self.tool_calls:
            given["tool_calls"] = [each.as_dict() for each in self.tool_calls]
        return {"role": self.role, "content": content, **given}
