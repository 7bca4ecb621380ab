"""The fields of a body that ask for structured output: OpenAI's response_format, and the names of vLLM and SGLang."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field

from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.protocol.values import Body


class JsonSchema(Body):
    """`name` and `description` label the schema, and `strict` has no effect: every schema is followed to the letter."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`json` and `regex` are TGI's types. `value` is their schema or expression, as huggingface_hub sends it, which
    calls a schema json_object."""

    type: Literal["text", "json_object", "json_schema", "json", "regex", "structural_tag"] = "text"
    json_schema: JsonSchema | None = None
    value: dict[str, Any] | str | None = None
    structures: list[Any] | None = None
    triggers: list[Any] | None = None
    format: dict[str, Any] | None = None

    @property
    def structural_tag(self) -> dict[str, Any]:
        """What of it is one."""
        tag = {"structures": self.structures, "triggers": self.triggers, "format": self.format}
        return {name: value for name, value in tag.items() if value is not None}


# Which of its fields each type reads; one of them at most, beside those of structural tags.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "text": (),
    "json_object": ("value",),
    "json_schema": ("json_schema", "value"),
    "json": ("json_schema", "value"),
    "regex": ("value",),
    "structural_tag": ("structures", "triggers", "format"),
}


def _refuse_unread(value: ResponseFormat) -> None:
    """Raises ApiError (400) for a field that would have no effect."""
    given = [name for name in ResponseFormat.model_fields if name != "type" and getattr(value, name) is not None]
    for name in given:
        if name not in _FIELDS[value.type]:
            message = f"response_format has '{name}', which the type '{value.type}' does not read."
            raise ApiError(400, message, param=f"response_format.{name}")
    if {"json_schema", "value"} <= set(given):
        message = "response_format has a schema in json_schema and one in value; give one of them."
        raise ApiError(400, message, param="response_format.value")


def _from_format(value: ResponseFormat) -> StructuredOutputs | None:
    _refuse_unread(value)
    if value.type == "structural_tag":
        return StructuredOutputs(structural_tag=value.structural_tag)
    if value.type == "regex":
        return StructuredOutputs(regex=value.value)  # type: ignore[arg-type]
    if value.value is not None:
        return StructuredOutputs(json=value.value)
    if value.type in ("json_schema", "json"):
        schema = None if value.json_schema is None else value.json_schema.schema_
        if schema is None:
            raise ApiError(400, "response_format asks for a JSON schema and has none.", param="response_format")
        return StructuredOutputs(json=schema)
    return StructuredOutputs(json_object=True) if value.type == "json_object" else None


def _from_mapping(value: Mapping[str, Any]) -> StructuredOutputs | None:
    """vLLM's structured_outputs, in which clients spell out what they do not ask for."""
    asked = {name: each for name, each in value.items() if each not in (None, False)}
    return StructuredOutputs.of(asked) if asked else None


_READERS: Mapping[str, Callable[[Any], StructuredOutputs | None]] = {
    "response_format": _from_format,
    "structured_outputs": _from_mapping,
    "guided_json": lambda value: StructuredOutputs(json=value),
    "guided_regex": lambda value: StructuredOutputs(regex=value),
    "guided_choice": lambda value: StructuredOutputs(choice=value),
    "guided_grammar": lambda value: StructuredOutputs(grammar=value),
    "json_schema": lambda value: StructuredOutputs(json=value),
    "regex": lambda value: StructuredOutputs(regex=value),
    "ebnf": lambda value: StructuredOutputs(grammar=value),
    "structural_tag": lambda value: StructuredOutputs(structural_tag=value),
}


def read_structure(body: Body) -> tuple[str, StructuredOutputs] | None:
    """The field of a GenerationBody that asks for structured output, and for which. An empty value asks for nothing.

    Raises ApiError (400) for a value that is none, and when two fields ask.
    """
    found: list[tuple[str, StructuredOutputs]] = []
    for name, read in _READERS.items():
        value = getattr(body, name)
        if not value:
            continue
        with blaming(name):
            outputs = read(value)
        if outputs is not None:
            found.append((name, outputs))
    if len(found) > 1:
        names = [name for name, _ in found]
        raise ApiError(400, f"{' and '.join(names)} both ask for structured output; use one.", param=names[1])
    return found[0] if found else None
