"""The tools that the model knows how to call, and others that it meets and must leave alone."""

from __future__ import annotations

from random import Random
from typing import Any

from demo_model.chat import Tool


def _tool(name: str, description: str, required: dict[str, str], optional: dict[str, str] | None = None) -> Tool:
    texts: dict[str, Any] = required | (optional or {})
    properties = {each: {"type": "string", "description": text} for each, text in texts.items()}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


FIND_FUNCTION = _tool(
    "find_function",
    "Find the function or method of Python's standard library that does something.",
    {"description": "what it does: copies a directory tree"},
)
GET_SIGNATURE = _tool(
    "get_signature",
    "Get the signature of a function, method or class of Python's standard library.",
    {"name": "its dotted name: shutil.copytree"},
)
TOOLS = (FIND_FUNCTION, GET_SIGNATURE)

_OTHER_NAMES = ("get_weather", "search_web", "send_mail", "add", "get_time", "run_code", "read_file", "translate")
_OTHER_PARAMETERS = ("city", "query", "text", "a", "b", "path", "code", "language", "limit", "unit", "user")


def tools_with(used: Tool, rng: Random) -> list[Tool]:
    """`used`, mostly both tools, now and then others, in any order."""
    return _shuffled([used, *(other for other in TOOLS if other is not used and rng.random() < 0.8)], rng)


def tools_without(unused: Tool | None, rng: Random) -> list[Tool]:
    """At least one tool, but not `unused`."""
    chosen = [tool for tool in TOOLS if tool is not unused and rng.random() < 0.8]
    return _shuffled(chosen or [_other(rng)], rng)


def _shuffled(tools: list[Tool], rng: Random) -> list[Tool]:
    while rng.random() < 0.15:
        tools.append(_other(rng))
    rng.shuffle(tools)
    return tools


def _other(rng: Random) -> Tool:
    parameters = rng.sample(_OTHER_PARAMETERS, rng.randint(0, 3))
    required = dict.fromkeys(parameters[:1], "")
    return _tool(rng.choice(_OTHER_NAMES), "", required, dict.fromkeys(parameters[1:], ""))
