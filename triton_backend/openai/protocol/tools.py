"""Tools and the choice among them, as a body has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from inflight.runtime.text.chat.tool_use import ToolsError, ToolUse, is_function_name, read_tool_use
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.values import Body, refusing

MAX_TOOLS = 1024


def _checked_name(name: str) -> str:
    if not is_function_name(name):
        raise ValueError("the name of a function has 1 to 128 letters, digits, dots, underscores and hyphens")
    return name


FunctionName = Annotated[str, AfterValidator(_checked_name)]


class FunctionBody(Body):
    """`strict` has an effect where a call is forced, and calls that are forced are strict in any case."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    """A function that the model may call; marks of caches change no answer."""

    type: Annotated[Literal["function"], refusing("tools that are no functions", "custom", "mcp", "web_search")] = (
        "function"
    )
    function: FunctionBody
    cache_control: Any = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it. Many go through the properties of the parameters."""
        own = {"name": self.function.name}
        if self.function.description is not None:
            own["description"] = self.function.description
        parameters = self.function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": {**own, "parameters": parameters}}


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class ToolChoiceBody(Body):
    """One function, or some of the tools."""

    type: Annotated[Literal["function", "allowed_tools"], refusing("tools that are no functions", "custom")]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


def _mode_or(value: Any, choice: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, str):  # one of MODES, or the name of a tool, which read_tools looks up
        return value
    if not isinstance(value, dict):
        raise ValueError("Input should be 'none', 'auto', 'required' or an object that names a function")
    return choice(value)


# Not a union, whose errors would name the types that it tried as if they were keys.
if TYPE_CHECKING:
    ToolChoice = str | ToolChoiceBody
else:
    ToolChoice = Annotated[ToolChoiceBody, WrapValidator(_mode_or)]


class ToolFields(Body):
    """What a body says of tools."""

    tools: list[ToolBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None


def read_tools(body: ToolFields) -> ToolUse | None:
    """None where no tool may be called. Raises ApiError (400) for tools and choices that contradict each other or
    themselves."""
    choice = body.tool_choice
    said = choice if choice is None or isinstance(choice, str) else choice.model_dump()
    try:
        return read_tool_use([each.for_template() for each in body.tools or ()], said, body.parallel_tool_calls)
    except ToolsError as error:
        raise ApiError(400, error.message, param=error.param) from error
