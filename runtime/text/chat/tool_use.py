"""Tools that an answer may call, and the choice among them, in OpenAI's shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.text.chat.tool_schema import as_object_schema, schema_problem
from inflight.runtime.text.parsers.answer import AnswerFormat
from inflight.runtime.text.parsers.call_grammar import calls_grammar, calls_or_content_grammar
from inflight.runtime.text.parsers.tool_format import MOST_CALLS, Tool, ToolFormat
from inflight.runtime.text.tokenizer import Tokenizer

MODES = ("none", "auto", "required")
# OpenAI's, with the dots of names that servers of tools give, and longer.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_TOOL_HINT = 'A tool looks like {"type": "function", "function": {"name": "f", "parameters": {"type": "object", ...}}}.'
_CHOICE_HINT = (
    'tool_choice is "none", "auto", "required", {"type": "function", "function": {"name": "f"}}, or the name of a tool.'
)


class ToolsError(RequestError):
    """Tools or a choice that contradict each other or themselves; `param` is the place, as `tools.0.function.name`."""

    def __init__(self, message: str, param: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.param = param


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that an answer may call. `chosen`: as they were given, for a template. `is_forced`: it calls one at
    least; `is_named`: exactly one, which the client chose. `most`: at most so many calls."""

    chosen: tuple[Mapping[str, Any], ...]
    tools: tuple[Tool, ...]
    is_forced: bool
    is_named: bool
    most: int

    def answer_format(self, form: ToolFormat) -> AnswerFormat:
        """How an answer of a model that calls in this form is read."""
        most = 1 if self.most == 1 else None
        return AnswerFormat(lambda: form.parser(self.tools), form.markers, most, form.new_call_id)

    def structure(
        self, form: ToolFormat, content: StructuredOutputs | None, tokenizer: Tokenizer
    ) -> StructuredOutputs | None:
        """What the text must be, where `content` is asked for: forced calls are of the grammar of the form, and there
        is no content then. Where the model may choose, content is as it was asked for, or it calls.

        Raises RequestError for what cannot be asked for beside tools.
        """
        if self.is_forced:
            return StructuredOutputs(grammar=calls_grammar(form, self.tools, self.most, tokenizer))
        if content is None:
            return None
        return StructuredOutputs(grammar=calls_or_content_grammar(form, self.tools, self.most, tokenizer, content))


def is_function_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def read_tool_use(
    tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None, parallel: bool | None
) -> ToolUse | None:
    """What tools, tool_choice and parallel_tool_calls say; None where no tool may be called. A choice may be the
    name of a tool alone, as in TGI. Raises ToolsError."""
    given = list(tools or ())
    by_name = _by_name(given)
    choice = "auto" if choice is None else choice
    if isinstance(choice, str) and choice not in MODES and choice in by_name:
        choice = {"type": "function", "function": {"name": choice}}
    if choice == "none":
        return None
    if isinstance(choice, str):
        if choice not in MODES:
            message = f"tool_choice is {choice!r}: neither 'none', 'auto' or 'required' nor the name of a tool."
            raise ToolsError(message, "tool_choice", _CHOICE_HINT)
        mode, name, chosen = choice, None, given
    else:
        mode, name, chosen = _chosen(choice, by_name)
    if not given:
        if mode == "auto":
            return None
        raise ToolsError("tool_choice asks for a call, and there are no tools.", "tool_choice")
    is_single = name is not None or parallel is False
    most = 1 if is_single else MOST_CALLS
    return ToolUse(tuple(chosen), tuple(map(_tool, chosen)), mode == "required", name is not None, most)


def _tool(given: Mapping[str, Any]) -> Tool:
    function = _function(given)
    # By its title a schema is named where it is refused.
    schema = {"title": function["name"], **as_object_schema(function.get("parameters") or {})}
    return Tool(function["name"], schema, function.get("description"))


def _function(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Templates take a function as it is, too."""
    function: Mapping[str, Any] = given.get("function", given)
    return function


def _by_name(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for index, given in enumerate(tools):
        where = f"tools.{index}.function"
        function = _function(given) if isinstance(given, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if function is None or not isinstance(name, str) or not is_function_name(name):
            message = f"'{where}.name' must have 1 to 128 letters, digits, dots, underscores and hyphens."
            raise ToolsError(message, f"{where}.name", _TOOL_HINT)
        if name in found:
            raise ToolsError(f"Two tools have the name '{name}'.", f"{where}.name")
        found[name] = given
        parameters = function.get("parameters") or {}
        problem = schema_problem(parameters) if isinstance(parameters, Mapping) else ("", "a schema is an object")
        if problem is not None:
            place, what = problem
            raise ToolsError(f"'{where}.parameters{place}': {what}", f"{where}.parameters{place}")
    return found


def _chosen(choice: Any, by_name: Mapping[str, Mapping[str, Any]]) -> tuple[str, str | None, list[Mapping[str, Any]]]:
    """Mode, the one function that is named, and the tools that are left."""
    if not isinstance(choice, Mapping) or choice.get("type") not in ("function", "allowed_tools"):
        raise ToolsError(f"tool_choice is {choice!r}.", "tool_choice", _CHOICE_HINT)
    if choice["type"] == "allowed_tools":
        allowed = choice.get("allowed_tools") or {}
        if not allowed.get("tools"):
            raise ToolsError("tool_choice allows no tools: allowed_tools is empty.", "tool_choice")
        names = [each["function"]["name"] for each in allowed["tools"]]
        _check_known(names, by_name, "tool_choice.allowed_tools.tools")
        return allowed["mode"], None, [by_name[name] for name in dict.fromkeys(names)]
    function = choice.get("function")
    if not isinstance(function, Mapping) or "name" not in function:
        raise ToolsError("Missing required parameter: 'tool_choice.function'.", "tool_choice.function")
    _check_known([function["name"]], by_name, "tool_choice.function.name")
    return "required", function["name"], [by_name[function["name"]]]


def _check_known(names: Sequence[str], by_name: Mapping[str, Any], param: str) -> None:
    for name in names:
        if name not in by_name:
            there = ", ".join(by_name) or "none"
            raise ToolsError(f"tool_choice names '{name}', which is not among the tools: {there}.", param)
