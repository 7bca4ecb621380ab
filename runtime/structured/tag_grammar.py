"""The forms that a structural tag is made of, as rules of one grammar."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inflight.runtime.structured.json_grammar import json_rule, mark_rule, regex_rule
from inflight.runtime.structured.tag_fields import Form, refuse
from inflight.runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Follow:
    """What comes behind a form. `ends`: one of these, which its rule has to have; none: nothing where the text
    `is_last`, else something that is not known."""

    ends: tuple[str, ...] = ()
    is_last: bool = False


_LAST, _UNKNOWN = _Follow(is_last=True), _Follow()


@dataclass(frozen=True, slots=True)
class _Item:
    """A part of a sequence: a `mark`, or what `rule` makes of what follows."""

    mark: str | None
    rule: Callable[[_Follow], str]
    is_open: bool = False


class TagGrammar:
    """Grammars of forms, in llguidance's Lark. A mark that is one special token is met as that token alone."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._rules: list[str] = []

    def text(self, form: Form) -> str:
        """The whole grammar. Raises RequestError for what is no form, with its place."""
        start = self._rule(form, _LAST) or '""'
        return "\n".join([f"start: {start}", "TEXT: /(?s:.*)/", *self._rules])

    def _rule(self, form: Form, follow: _Follow) -> str:
        """What stands for the form, the end behind it included. Forms that are free up to an end, or hold such, are
        given it; others have it put behind them."""
        free: Mapping[str, Callable[[Form, _Follow], str]] = {
            "any_text": self._any_text,
            "triggered_tags": self._triggered_tags,
            "sequence": self._sequence,
            "tag": self._sequence,
            "or": self._or,
        }
        if form.kind in free:
            return free[form.kind](form, follow)
        closed: Mapping[str, Callable[[Form], str]] = {
            "const_string": lambda form: self._mark(form.value["value"]),
            "token": lambda form: self._mark(self._token_text(form)),
            "json_schema": lambda form: self._named(json_rule(form.value["json_schema"])),
            "regex": lambda form: self._named(regex_rule(form.value["pattern"])),
            "grammar": self._grammar,
            "optional": lambda form: f"({self._inner(form)})?",
            "plus": lambda form: f"({self._inner(form)})+",
            "star": lambda form: f"({self._inner(form)})*",
            "repeat": self._repeat,
            "tags_with_separator": self._separated,
        }
        return _joined(closed[form.kind](form), self._end(follow))

    def _named(self, body: str, attributes: str = "") -> str:
        """A rule of its own."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def _mark(self, text: str) -> str:
        return mark_rule(text, self._tokenizer)

    def _end(self, follow: _Follow) -> str:
        found = [self._mark(each) for each in follow.ends]
        return found[0] if len(found) == 1 else f"({' | '.join(found)})" if found else ""

    def _inner(self, form: Form) -> str:
        return self._rule(form.inside("content"), _UNKNOWN) or '""'

    def _repeat(self, form: Form) -> str:
        least, most = form.value["min"], form.value["max"]
        if least < 0 or (most < least and most != -1):
            refuse(form.where, f"repeats {least} to {most} times; min must be 0 or more, and max no less, or -1")
        return f"({self._inner(form)}){{{least},{most if most >= 0 else ''}}}"

    def _token_text(self, form: Form) -> str:
        """A special token as its text."""
        token = form.value["token"]
        token_id = self._tokenizer.token_id(token) if isinstance(token, str) else token
        is_there = token_id is not None and 0 <= token_id < self._tokenizer.vocab_size
        piece = self._tokenizer.special_piece(token_id) if is_there and token_id is not None else None
        if piece is None:
            refuse(form.where, f"names {token!r}, which is no special token of this vocabulary")
        return piece

    def _marks(self, form: Form, field: str) -> tuple[str, ...]:
        """The texts that begin or end a tag."""
        found = []
        given = form.value[field]
        for each in given if isinstance(given, list) else [given]:
            if isinstance(each, Mapping):
                each = self._token_text(Form.of(each, f"{form.where}.{field}"))
            if not isinstance(each, str) or (not each and isinstance(given, list)):
                refuse(f"{form.where}.{field}", "must be texts that are not empty")
            found.append(each)
        if not found:
            refuse(f"{form.where}.{field}", "is empty")
        return tuple(dict.fromkeys(found))

    def _grammar(self, form: Form) -> str:
        from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

        try:
            return self._named(f"%lark {{\n{any_to_lark(form.value['grammar'])}\n}}")
        except GbnfToLarkError as error:
            refuse(form.where, f"has a grammar that is neither Lark nor GBNF: {error}")

    def _any_text(self, form: Form, follow: _Follow) -> str:
        most = form.value.get("max_chars")
        if form.value.get("max_tokens") is not None:
            refuse(form.where, "has max_tokens, which is not supported; use max_chars")
        if most is not None and most < 0:
            refuse(form.where, f"has max_chars {most}; it must be 0 or more")
        return self._free_text(form, "TEXT" if most is None else f"/(?s:.{{0,{most}}})/", follow)

    def _free_text(self, form: Form, free: str, follow: _Follow) -> str:
        """Text up to the end, which is the first in it."""
        if not (follow.ends or follow.is_last):
            refuse(form.where, "is text without an end; a const_string, a tag or the end of one has to follow it")
        if excludes := form.texts("excludes"):
            found = "|".join(map(_escaped, excludes))
            self._rules.append(f"T{len(self._rules)}: {free} & ~/(?s:.*)({found})(?s:.*)/")
            free = f"T{len(self._rules) - 1}"
        if "" in follow.ends or not follow.ends:
            return self._named(free)
        shown = []
        for end in follow.ends:
            mark = self._mark(end)
            # The text before a special token has none in it, so that it ends there by itself.
            is_token = mark.startswith("<[")
            shown.append(self._named(f"{free} {mark if is_token else json.dumps(end)}", "" if is_token else "[lazy]"))
        return shown[0] if len(shown) == 1 else f"({' | '.join(shown)})"

    def _items(self, form: Form) -> list[_Item]:
        """A tag is its beginning, and its content with its end; a text that is open ends with a mark behind it."""
        if form.kind == "sequence":
            return [item for each in form.each("elements") for item in self._items(each)]
        if form.kind == "tag":
            return [*map(self._mark_item, self._one_mark(form)), self._body_item(form)]
        if form.kind == "const_string":
            return [self._mark_item(form.value["value"])]
        return [_Item(None, lambda follow: self._rule(form, follow), form.is_open)]

    def _one_mark(self, form: Form) -> tuple[str, ...]:
        found = self._marks(form, "begin")
        return found if found[0] else ()

    def _mark_item(self, mark: str) -> _Item:
        return _Item(mark, lambda follow: _joined(self._mark(mark), self._end(follow)))

    def _body_item(self, form: Form) -> _Item:
        return _Item(None, lambda follow: _joined(self._tag_body(form), self._end(follow)))

    def _sequence(self, form: Form, follow: _Follow) -> str:
        items = self._items(form)
        shown = []
        while items:
            item = items.pop(0)
            ends = _UNKNOWN if items else follow
            if item.is_open and items and items[0].mark:
                shown.append(item.rule(_Follow((items.pop(0).mark or "",))))
                if not items:
                    shown.append(self._end(follow))
                continue
            shown.append(item.rule(ends))
        return _joined(*shown)

    def _or(self, form: Form, follow: _Follow) -> str:
        return f"({' | '.join(self._rule(each, follow) or chr(34) * 2 for each in form.each('elements'))})"

    def _tag_body(self, form: Form) -> str:
        """The content of a tag and its end."""
        return self._rule(form.inside("content"), _Follow(self._marks(form, "end")))

    def _triggered_tags(self, form: Form, follow: _Follow) -> str:
        """Text that is free but for tags, each of which follows the trigger with which it begins."""
        bodies: dict[str, list[str]] = {each: [] for each in form.texts("triggers")}
        whole = []
        for tag in form.each("tags"):
            (begin,) = self._marks(tag, "begin")
            trigger = max((each for each in bodies if begin.startswith(each)), key=len, default=None)
            if trigger is None:
                refuse(tag.where, f"begins with {begin!r}, which begins with none of the triggers")
            rest = begin[len(trigger) :]
            body = self._named(_joined(self._mark(rest), self._tag_body(tag)) or '""')
            bodies[trigger].append(body)
            whole.append(_joined(self._mark(trigger), body))
        if idle := [trigger for trigger, found in bodies.items() if not found]:
            refuse(form.where, f"has no tag that begins with the trigger {idle[0]!r}")
        needs, stops = form.value.get("at_least_one"), form.value.get("stop_after_first")
        first = self._named(" | ".join(whole)) if needs else ""
        if needs and stops:
            return _joined(first, self._end(follow))
        tags = [
            _joined(self._free_text(form, "TEXT", _Follow((trigger,))), f"({' | '.join(found)})")
            for trigger, found in bodies.items()
        ]
        last = self._free_text(form, "TEXT", follow)
        if stops:
            return f"({_joined(f'({_either(tags)})', self._end(follow))} | {last})"
        return _joined(first, f"({_either(tags)})*", last)

    def _separated(self, form: Form) -> str:
        one = self._named(_either([self._rule(tag, _UNKNOWN) or '""' for tag in form.each("tags")]))
        separator = self._mark(form.value["separator"])
        more = "" if form.value.get("stop_after_first") else f"({_joined(separator, one)})*"
        return f"({_joined(one, more)})" + ("" if form.value.get("at_least_one") else "?")


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _either(parts: Sequence[str]) -> str:
    return " | ".join(parts)


def _escaped(text: str) -> str:
    """In a regular expression between slashes."""
    return "".join(each if each.isalnum() and each.isascii() else f"\\u{{{ord(each):x}}}" for each in text)
