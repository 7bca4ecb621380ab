"""Tools, and engines of templates that know them and that do not."""

from __future__ import annotations

from typing import Any

# As Hermes's and Qwen's, shortened.
HERMES_TEMPLATE = (
    "{%- if tools %}<|system|>Tools:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n"
    'Call one as <tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n{% endif %}'
    "{%- for message in messages %}<|{{ message.role }}|>{{ message.content or '' }}"
    "{%- for call in message.tool_calls or [] %}"
    '\n<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>"
    "{%- endfor %}\n{% endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>{% endif %}"
)

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
            },
            "required": ["city", "unit"],
        },
    },
}
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"numbers": {"type": "array", "items": {"$ref": "#/$defs/number"}, "maxItems": 3}},
            "required": ["numbers"],
            "$defs": {"number": {"type": "integer", "minimum": -99, "maximum": 99}},
        },
    },
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
TOOLS: list[Any] = [WEATHER, ADD, NOW]
MESSAGES: list[Any] = [{"role": "user", "content": "fox"}]


def parameters_of(name: str, tools: list[Any] = TOOLS) -> dict[str, Any]:
    """The schema of the arguments of one of `tools`, which takes none where it says nothing."""
    (function,) = (tool["function"] for tool in tools if tool["function"]["name"] == name)
    found = function.get("parameters", {"type": "object", "properties": {}})
    return {"additionalProperties": False, **found}
