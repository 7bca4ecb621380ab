"""What the forms of a structural tag consist of, and what is no form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from inflight.errors import RequestError

Kinds = type | tuple[type, ...]
_SCHEMA: Kinds = (dict, bool)
_MARK: Kinds = (str, dict)

# Of each type: its fields with what they are; those with a question mark may be left out.
FIELDS: Mapping[str, Mapping[str, Kinds]] = {
    "const_string": {"value": str},
    "json_schema": {"json_schema": _SCHEMA, "style?": str, "any_order?": bool},
    "regex": {"pattern": str},
    "grammar": {"grammar": str},
    "token": {"token": (str, int)},
    "any_text": {"excludes?": list, "max_chars?": int, "max_tokens?": int},
    "sequence": {"elements": list},
    "or": {"elements": list},
    "optional": {"content": dict},
    "plus": {"content": dict},
    "star": {"content": dict},
    "repeat": {"content": dict, "min": int, "max": int},
    "tag": {"begin": _MARK, "content": dict, "end": (str, list, dict)},
    "triggered_tags": {
        "triggers": list,
        "tags": list,
        "at_least_one?": bool,
        "stop_after_first?": bool,
        "excludes?": list,
    },
    "tags_with_separator": {"tags": list, "separator": str, "at_least_one?": bool, "stop_after_first?": bool},
}
# What xgrammar has beside these.
_OTHERS = ("dispatch", "exclude_token", "any_tokens", "token_triggered_tags", "token_dispatch", "qwen_xml_parameter")


def refuse(where: str, what: str) -> NoReturn:
    raise RequestError(f"The structural tag's {where} {what}.")


@dataclass(frozen=True, slots=True)
class Form:
    """An object of one of the types in FIELDS, with fields that these have. `where`: its place in the tag."""

    kind: str
    value: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: object, where: str) -> Form:
        """Raises RequestError for what is none."""
        if not isinstance(value, Mapping):
            refuse(where, "must be an object with a type")
        kind = value.get("type")
        if kind in _OTHERS:
            refuse(where, f"is of the type {kind!r}, which is not supported")
        if not isinstance(kind, str) or kind not in FIELDS:
            refuse(where, f"has the type {kind!r}; it must be one of {', '.join(FIELDS)}")
        fields = {name.removesuffix("?"): kinds for name, kinds in FIELDS[kind].items()}
        for name, kinds in FIELDS[kind].items():
            found = value.get(name.removesuffix("?"))
            if found is None and name.endswith("?"):
                continue
            if not isinstance(found, kinds) or (isinstance(found, bool) and kinds in (int, (str, int))):
                refuse(f"{where}.{name.removesuffix('?')}", f"is {found!r:.60}; {_told(kinds)} is needed")
        if unknown := [name for name in value if name not in fields and name != "type"]:
            refuse(where, f"has a field {unknown[0]!r}; {kind} has {', '.join(fields)}")
        if value.get("style", "json") != "json" or value.get("any_order"):
            refuse(where, "has a style or any_order; JSON with its keys in the order of the schema is what there is")
        return cls(kind, value, where)

    def inside(self, field: str) -> Form:
        """The form in a field."""
        return Form.of(self.value[field], f"{self.where}.{field}")

    def each(self, field: str) -> list[Form]:
        """The forms in a list, of which there is one at least; those of `tags` are tags, whose type may be left out."""
        values = self.value[field]
        if not values:
            refuse(f"{self.where}.{field}", "is empty")
        if field == "tags":
            values = [{"type": "tag", **each} if isinstance(each, Mapping) else each for each in values]
        found = [Form.of(each, f"{self.where}.{field}.{place}") for place, each in enumerate(values)]
        for form in found:
            if field == "tags" and form.kind != "tag":
                refuse(form.where, f"is of the type {form.kind!r}; it must be a tag")
        return found

    def texts(self, field: str) -> list[str]:
        """The strings in a list, none of them empty; none where there is no such field."""
        found = self.value.get(field) or []
        if not all(isinstance(each, str) and each for each in found):
            refuse(f"{self.where}.{field}", "must be strings, none of them empty")
        return list(dict.fromkeys(found))

    @property
    def is_open(self) -> bool:
        """Whether it is text without an end of its own."""
        if self.kind == "or":
            return any(each.is_open for each in self.each("elements"))
        return self.kind in ("any_text", "triggered_tags")


def _told(kinds: Kinds) -> str:
    names = {str: "a string", int: "an integer", bool: "true or false", dict: "an object", list: "a list"}
    return " or ".join(names[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
