"""Tools and the choice among them, as a body has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from inflight.runtime.text.parsers.tool_format import MOST_CALLS, Tool
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.schema import as_object_schema, schema_problem
from inflight.triton_backend.openai.protocol.values import Body, refusing

# OpenAI's, with the dots of names that servers of tools give, and longer.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MAX_TOOLS = 1024


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
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


_MODES = ("none", "auto", "required")


def _mode_or(value: Any, choice: ValidatorFunctionWrapHandler) -> Any:
    if value in _MODES:
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


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that an answer may call, as a template and as a parser take them. `is_forced`: it calls one at least;
    `is_named`: exactly one, which the client chose. `most`: at most so many calls."""

    bodies: tuple[ToolBody, ...]
    tools: tuple[Tool, ...]
    is_forced: bool
    is_named: bool
    most: int

    def for_template(self) -> list[dict[str, Any]]:
        return [each.for_template() for each in self.bodies]


def read_tools(body: ToolFields) -> ToolUse | None:
    """None where no tool may be called. Raises ApiError (400) for tools and choices that contradict each other or
    themselves."""
    bodies = body.tools or []
    _check(bodies)
    choice = body.tool_choice or "auto"
    if choice == "none":
        return None
    if isinstance(choice, str):
        mode, name, chosen = choice, None, bodies
    else:
        mode, name, chosen = _chosen(choice, bodies)
    if not bodies:
        if mode == "auto":
            return None
        raise ApiError(400, "tool_choice asks for a call, and there are no tools.", param="tool_choice")
    tools = tuple(
        Tool(each.function.name, as_object_schema(each.function.parameters or {}), each.function.description)
        for each in chosen
    )
    is_single = name is not None or body.parallel_tool_calls is False
    return ToolUse(tuple(chosen), tools, mode == "required", name is not None, 1 if is_single else MOST_CALLS)


def _chosen(choice: ToolChoiceBody, bodies: Sequence[ToolBody]) -> tuple[str, str | None, list[ToolBody]]:
    """Mode, the one function that is named, and the tools that are left."""
    by_name = {each.function.name: each for each in bodies}
    if choice.type == "allowed_tools":
        if choice.allowed_tools is None or not choice.allowed_tools.tools:
            raise ApiError(400, "tool_choice allows no tools: allowed_tools is empty.", param="tool_choice")
        names = [each.function.name for each in choice.allowed_tools.tools]
        _check_known(names, by_name, "tool_choice.allowed_tools.tools")
        return choice.allowed_tools.mode, None, [by_name[name] for name in dict.fromkeys(names)]
    if choice.function is None:
        raise ApiError(400, "Missing required parameter: 'tool_choice.function'.", param="tool_choice.function")
    _check_known([choice.function.name], by_name, "tool_choice.function.name")
    return "required", choice.function.name, [by_name[choice.function.name]]


def _check_known(names: Sequence[str], by_name: Mapping[str, ToolBody], param: str) -> None:
    for name in names:
        if name not in by_name:
            there = ", ".join(by_name) or "none"
            raise ApiError(400, f"tool_choice names '{name}', which is not among the tools: {there}.", param=param)


def _check(bodies: Sequence[ToolBody]) -> None:
    seen: set[str] = set()
    for index, each in enumerate(bodies):
        where = f"tools.{index}.function"
        if each.function.name in seen:
            raise ApiError(400, f"Two tools have the name '{each.function.name}'.", param=f"{where}.name")
        seen.add(each.function.name)
        if problem := schema_problem(each.function.parameters or {}):
            place, what = problem
            raise ApiError(400, f"'{where}.parameters{place}': {what}", param=f"{where}.parameters{place}")
