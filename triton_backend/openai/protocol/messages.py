"""The messages of a chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, create_model, model_validator

from inflight.triton_backend.openai.protocol.refusals import REFUSED_IN_MESSAGES
from inflight.triton_backend.openai.protocol.values import Body, refused_fields


class Part(Body):
    """A part of a message's content. The marks of caches, which change no answer, are allowed."""

    type: Literal["text", "input_text", "output_text", "refusal"]
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


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise ValueError("Input should be a string or a list of parts")
    return value


if TYPE_CHECKING:
    _RefusingMessage = Body
else:
    _RefusingMessage = create_model("_RefusingMessage", __base__=Body, **refused_fields(REFUSED_IN_MESSAGES))


class Message(_RefusingMessage):
    """One message, as a client wrote it or as this server answered.

    `annotations` name the sources of an earlier answer and are not part of its text. Templates read the reasoning of an
    earlier answer under one of several names.
    """

    role: str
    content: Annotated[list[Part], BeforeValidator(_as_parts)] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    annotations: list[Any] | None = None

    @property
    def text(self) -> str | None:
        """The content as chat templates take it, its parts joined; a refusal stands for content that is missing."""
        return self.refusal if self.content is None else "".join(part.shown for part in self.content)

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        rest = {name: getattr(self, name) for name in ("name", "reasoning", "reasoning_content", "thinking")}
        given = {name: value for name, value in rest.items() if value}
        return {"role": self.role, "content": self.text, **given}
