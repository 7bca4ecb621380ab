"""The bodies of POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model, model_validator

from inflight.triton_backend.dialects.anthropic.blocks import Blocks
from inflight.triton_backend.openai.protocol.values import Body, Refused, refused_fields

_REFUSED = {
    "container": Refused("containers"),
    "mcp_servers": Refused("servers of tools (MCP)"),
    "fallbacks": Refused("other models to fall back to"),
}


class Message(Body):
    """A message; one of the role `system` among them is an instruction at that place."""

    role: Literal["user", "assistant", "system"]
    content: Blocks
    cache_control: Any = None


class ToolBody(Body):
    """A tool of the client. What says when and how its arguments are streamed, and examples, change no answer."""

    type: str = "custom"
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Any = None
    eager_input_streaming: bool | None = None
    defer_loading: Annotated[bool, AfterValidator(Refused("tools that are loaded later").check)] = False
    input_examples: list[Any] | None = None
    allowed_callers: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_of_the_client(cls, values: Any) -> Any:
        kind = values.get("type") if isinstance(values, dict) else None
        if kind not in (None, "custom"):
            message = (
                f"this server does not support tools of the type {str(kind)[:60]!r}, which Anthropic defines or runs;"
                " give the tool an input_schema and leave its type out"
            )
            raise ValueError(message.encode(errors="replace").decode())
        return values

    @model_validator(mode="after")
    def _has_a_schema(self) -> ToolBody:
        if self.input_schema is None:
            raise ValueError("a tool needs 'input_schema'")
        return self


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Body):
    """`display` "omitted" leaves the text of the thinking out."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted", "full"] | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None
    task_budget: Any = None


if TYPE_CHECKING:
    _RefusingBody = Body
else:
    _RefusingBody = create_model("_RefusingBody", __base__=Body, **refused_fields(_REFUSED))


class CountBody(_RefusingBody):
    """What makes the prompt. `context_management` would take old thinking and results out of long prompts, which here
    are as they were sent."""

    model: str
    messages: list[Message] = Field(min_length=1)
    system: Blocks | None = None
    tools: list[ToolBody] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: Any = None
    speed: Any = None
    context_management: Any = None


class MessagesBody(CountBody):
    """POST /v1/messages. Labels, tiers and places of serving change no answer."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    diagnostics: Any = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
