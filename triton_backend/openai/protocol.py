"""The requests of the API: OpenAI's parameters, and vLLM's sampling parameters beside them.

A parameter that is not declared here is refused by name. One that is declared and cannot be honoured is refused unless
its value asks for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from inflight.sampling_parameters import MAX_LOGPROBS, SAMPLING_PARAMETERS


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _refuse(value: Any) -> Any:
    """For unsupported parameters: refuse every value except one that has no effect."""
    if value:
        raise ValueError("this server does not support it")
    return value


Unsupported = Annotated[Any, AfterValidator(_refuse)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: Unsupported = None


class ResponseFormat(_Body):
    type: Literal["text"]


SAMPLING_FIELDS = tuple(row for row in SAMPLING_PARAMETERS if row.openai)
_TYPES: dict[str, Any] = {
    "integer": int,
    "number": float,
    "flag": bool,
    "strings": list[str],
    "ids": list[int],
    "bias": dict[int, float],
}

if TYPE_CHECKING:
    # Its fields are read by the names in SAMPLING_FIELDS.
    _SamplingBody = _Body
else:
    _SamplingBody = create_model(
        "_SamplingBody",
        __base__=_Body,
        **{
            row.name: (bool, row.default) if row.kind == "flag" else (_TYPES[row.kind] | None, None)
            for row in SAMPLING_FIELDS
        },
    )


class GenerationBody(_SamplingBody):
    """What both endpoints take: the parameters of SAMPLING_FIELDS, and these. None: not given, so that the model's
    default applies.

    `user`, `metadata`, `safety_identifier` and `prompt_cache_key` label a request and change nothing.
    """

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    stop: Annotated[list[str], BeforeValidator(_as_list)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    priority: int = Field(0, ge=-(1 << 31), lt=1 << 31)


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it: parts of text are joined."""
        content = "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content
        return {"role": self.role, "content": content} | ({"name": self.name} if self.name else {})


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None

    response_format: ResponseFormat | None = None
    tools: Unsupported = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Unsupported = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    web_search_options: Unsupported = None
    store: Unsupported = None
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # Only has a meaning with tools.
    parallel_tool_calls: bool | None = None


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=128)
    suffix: Unsupported = None
    add_special_tokens: bool = True

    def prompts(self) -> list[str | list[int]]:
        """The prompts, in order; each is text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and all(isinstance(item, int) for item in self.prompt):
            return [[item for item in self.prompt if isinstance(item, int)]]
        return [item for item in self.prompt if not isinstance(item, int)]
