"""The body of POST /v1/responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, create_model

from inflight.sampling_parameters import MAX_LOGPROBS
from inflight.triton_backend.dialects.responses.items import Item
from inflight.triton_backend.openai.protocol.values import Body, Refused, refused_fields, refusing, string_or

_SERVERS_TOOLS = [
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "file_search",
    "code_interpreter",
    "computer",
    "computer_use_preview",
    "image_generation",
    "local_shell",
    "shell",
    "mcp",
    "custom",
    "apply_patch",
    "tool_search",
    "namespace",
]

_REFUSED = {
    "conversation": Refused("conversations; previous_response_id goes on with a response"),
    "prompt": Refused("prompts that are kept elsewhere"),
    "context_management": Refused("compaction of the context"),
    "moderation": Refused("moderation"),
}


class Tool(Body):
    """A function. `strict` and what says who may call it have no effect."""

    type: Annotated[Literal["function"], refusing("tools that are no functions of the client", *_SERVERS_TOOLS)]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Any = None
    defer_loading: Any = None
    output_schema: Any = None


class ToolName(Body):
    type: Literal["function"] = "function"
    name: str


class ToolChoice(Body):
    """One function, or some of the tools."""

    type: Annotated[Literal["function", "allowed_tools"], refusing("tools that are no functions", *_SERVERS_TOOLS)]
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[ToolName] | None = None


def _mode_or(value: Any, choice: ValidatorFunctionWrapHandler) -> Any:
    if value in ("none", "auto", "required"):
        return value
    if not isinstance(value, dict):
        raise ValueError("Input should be 'none', 'auto', 'required' or an object that names a function")
    return choice(value)


class TextFormat(Body):
    """`name` and `description` label the schema, which is followed to the letter, `strict` or not."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class Text(Body):
    format: TextFormat = TextFormat.model_validate({})
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    """The reasoning is shown as it is, so that summaries are not made."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Any = None
    mode: Any = None


class StreamOptions(Body):
    include_obfuscation: bool | None = None


LOGPROBS = "message.output_text.logprobs"

if TYPE_CHECKING:
    _Input = str | list[Item]
    _Choice = str | ToolChoice
    _RefusingBody = Body
else:
    _Input = Annotated[list[Item], string_or("items")]
    _Choice = Annotated[ToolChoice, WrapValidator(_mode_or)]
    _RefusingBody = create_model("_RefusingBody", __base__=Body, **refused_fields(_REFUSED))


class ResponsesBody(_RefusingBody):
    """POST /v1/responses. What `include` names and is not there is nothing that a function or a text has. `seed` and
    the parameters below it are those of chat completions."""

    model: str | None = None
    input: _Input
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    background: bool = False
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    include: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: _Choice | None = None
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = None
    text: Text = Field(default_factory=Text)
    reasoning: Reasoning | None = None
    truncation: Annotated[
        Literal["disabled"], refusing("leaving out the beginning of an input that is too long", "auto")
    ] = "disabled"
    metadata: dict[str, str] | None = Field(None, max_length=16)
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    service_tier: str | None = None
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: Any = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking_token_budget: int | None = None

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    def items(self) -> list[Item]:
        """The input; a text is a message of the user."""
        return [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input
