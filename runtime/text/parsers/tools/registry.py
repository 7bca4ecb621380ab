"""The forms of tool calls by name: the project's own, and those that other packages register under
`inflight.tool_parsers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inflight.engine_format.registry import Registry
from inflight.runtime.text.parsers.tool_format import ToolFormat
from inflight.runtime.text.parsers.tools import (
    deepseek,
    gemma,
    generic,
    glm,
    granite,
    harmony,
    hermes,
    llama3_json,
    mistral,
    phi4,
    pythonic,
    qwen3_coder,
)

GROUP = "inflight.tool_parsers"

# One row each; the first whose form a chat template teaches is taken. `generic` fits every template and stays last.
_FORMATS: tuple[ToolFormat, ...] = (
    harmony.FORMAT,
    deepseek.V3,
    deepseek.V31,
    mistral.FORMAT,
    gemma.GEMMA4,
    gemma.FUNCTION_GEMMA,
    glm.FORMAT,
    phi4.FORMAT,
    granite.FORMAT,
    qwen3_coder.FORMAT,
    hermes.FORMAT,
    llama3_json.FORMAT,
    pythonic.FORMAT,
    generic.FORMAT,
)
# Names that vLLM and SGLang have for the same forms.
_ALIASES: Mapping[str, str] = {
    "qwen": "hermes",
    "qwen25": "hermes",
    "qwen3": "hermes",
    "qwen3_xml": "qwen3_coder",
    "llama3": "llama3_json",
    "llama4_json": "llama3_json",
    "llama4_pythonic": "pythonic",
    "granite4": "hermes",
    "glm": "glm45",
    "glm47": "glm45",
    "phi4": "phi4_mini_json",
    "deepseek_r1": "deepseek_v3",
    "gpt_oss": "openai",
    "gpt-oss": "openai",
    "harmony": "openai",
    "gemma": "gemma4",
}


def _rows() -> dict[str, Callable[[], ToolFormat]]:
    own = {each.name: each for each in _FORMATS}
    named = own | {alias: own[name] for alias, name in _ALIASES.items()}
    return {name: lambda found=found: found for name, found in named.items()}  # type: ignore[misc]


TOOL_FORMATS: Registry[ToolFormat] = Registry("tool call parser", GROUP, ToolFormat, _rows())


def find_tool_format(name: str) -> ToolFormat:
    """Raises InflightError where there is none of that name."""
    return TOOL_FORMATS.find(name)


def format_of_template(source: str | None) -> ToolFormat:
    """The form that a chat template teaches; None: there is no template."""
    return next(each for each in _FORMATS if each.fits(source or ""))
