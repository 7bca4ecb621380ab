"""What the text of an answer must be, under the names of vLLM's StructuredOutputsParams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

from inflight.errors import RequestError

# Far longer than schemas that people write, and short enough to be read in a millisecond.
MAX_CHARACTERS = 1 << 17
MAX_CHOICES = 4096
# Levels of arrays and objects within each other; the compiler's own reader takes 128.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """Exactly one of these, which the whole text then is. Raises RequestError on another number of them, or a value of
    another type or size.

    json: a JSON schema (drafts 4 to 2020-12), as a mapping or as JSON text; kept as text. Keys come in its order.
    json_object: true for any JSON object.
    regex: a regular expression in the syntax of Rust's crate regex, matched as a whole.
    choice: one of these strings.
    grammar: a context-free grammar in Lark's syntax, as llguidance takes it, or in GBNF, as llama.cpp does.
    structural_tag: structures that follow triggers in free text (structural_tags.py), as a mapping or as JSON text.
    """

    json: str | Mapping[str, Any] | bool | None = None
    regex: str | None = None
    choice: tuple[str, ...] | list[str] | None = None
    grammar: str | None = None
    json_object: bool = False
    structural_tag: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        given = [each.name for each in fields(self) if getattr(self, each.name) not in (None, False)]
        if self.json is False:
            given.append("json")
        if len(given) != 1:
            told = "none" if not given else " and ".join(given)
            raise RequestError(f"A structured output is one of {', '.join(KINDS)}; given: {told}.")
        if not isinstance(self.json_object, bool):
            raise RequestError("json_object of a structured output must be true or false.")
        if self.json is not None:
            set_field(self, "json", _schema_text(self.json))
        if self.structural_tag is not None:
            set_field(self, "structural_tag", _tag_text(self.structural_tag))
        if self.choice is not None:
            set_field(self, "choice", _choices(self.choice))
        for name in ("json", "regex", "grammar", "structural_tag"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise RequestError(f"{name} of a structured output must be a string with at least one character.")
            if value is not None and len(value) > MAX_CHARACTERS:
                raise RequestError(
                    f"{name} of a structured output has {len(value)} characters; at most {MAX_CHARACTERS} are possible."
                )
            _refuse_surrogates(name, value or "")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> StructuredOutputs:
        """From a mapping of its fields. Raises RequestError for others as well."""
        if unknown := [name for name in values if name not in KINDS and not _is_foreign(name)]:
            import difflib  # not on the way to a first token

            near = difflib.get_close_matches(unknown[0], KINDS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise RequestError(f"A structured output has no {unknown[0]!r}; it is one of {', '.join(KINDS)}.{hint}")
        return cls(**values)

    @property
    def kind(self) -> str:
        """Which one it is."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    @property
    def value(self) -> str:
        """It as one string: choices as a JSON list, an empty one for json_object."""
        if self.choice is not None:
            return json.dumps(list(self.choice))
        return "" if self.json_object else str(getattr(self, self.kind))


KINDS = tuple(each.name for each in fields(StructuredOutputs))


def _is_foreign(name: str) -> bool:
    from inflight.migration.row import letters
    from inflight.migration.sources import VLLM_STRUCTURED

    return letters(name) in VLLM_STRUCTURED.by_name


def _with_foreign_names() -> None:
    """Let StructuredOutputs take what vLLM's class has beside the kinds."""
    generated = StructuredOutputs.__init__

    @wraps(generated)
    def init(self: StructuredOutputs, *args: Any, **given: Any) -> None:
        if not given.keys() <= set(KINDS):
            from inflight.migration.keywords import read_keywords
            from inflight.migration.sources import VLLM_STRUCTURED

            given = read_keywords(given, VLLM_STRUCTURED, KINDS)
        generated(self, *args, **given)

    StructuredOutputs.__init__ = init  # type: ignore[method-assign]


_with_foreign_names()


def _schema_text(schema: object) -> str:
    """The schema as JSON text, after it has been read once."""
    value, text = _read(schema, "The JSON schema")
    if not isinstance(value, (Mapping, bool)):
        raise RequestError("A JSON schema must be an object, or true or false.")
    return text


def _tag_text(tag: object) -> str:
    value, text = _read(tag, "The structural tag")
    if not isinstance(value, Mapping):
        raise RequestError("A structural tag must be an object.")
    return text


def _read(given: object, what: str) -> tuple[Any, str]:
    """The value, and it as JSON text."""
    try:
        value = json.loads(given) if isinstance(given, str) else given
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise RequestError(f"{what} is no JSON: {error}.") from None
    except RecursionError:
        raise RequestError(f"{what} is nested deeper than {MAX_DEPTH} levels.") from None
    if _depth(text) > MAX_DEPTH:
        raise RequestError(f"{what} is nested deeper than {MAX_DEPTH} levels.")
    return value, text


def _depth(text: str) -> int:
    """How many arrays and objects of JSON text lie within each other."""
    depth = deepest = 0
    inside = escaped = False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _choices(choices: object) -> tuple[str, ...]:
    if not isinstance(choices, (list, tuple)) or not all(isinstance(each, str) for each in choices):
        raise RequestError("choice of a structured output must be a list of strings.")
    if not choices or not all(choices):
        raise RequestError("choice of a structured output must have strings, and none that is empty.")
    if len(choices) > MAX_CHOICES or sum(map(len, choices)) > MAX_CHARACTERS:
        raise RequestError(
            f"choice of a structured output has {len(choices)} strings of {sum(map(len, choices))} characters; at most"
            f" {MAX_CHOICES} of {MAX_CHARACTERS} in all are possible."
        )
    for each in choices:
        _refuse_surrogates("choice", each)
    return tuple(choices)


def _refuse_surrogates(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{name} of a structured output holds half of a surrogate pair.") from None
