"""What a caller of LLM gives as prompts or texts, in every form that is taken, with the place of each for messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from inflight.errors import RequestError

_PROMPTS = 'Give text, a list of token ids, {"prompt": "..."}, {"prompt_token_ids": [...]}, or a list of these.'
_TEXTS = 'Give text, {"text": "..."}, or a list of these.'
_TEXT_KEYS = ("prompt", "text")


@dataclass(frozen=True, slots=True)
class GivenPrompt:
    """Text or token ids: `token_ids` is None where they are to be made of the text. `place` names it, as "prompts[3]",
    or is None where it is the only one. `cache_salt`: what stood beside it."""

    text: str | None
    token_ids: tuple[int, ...] | None
    place: str | None
    cache_salt: str | None = None


def given_prompts(given: Any, name: str = "prompts") -> list[GivenPrompt]:
    """One prompt, or a list of them in any mixture: text, token ids, or a mapping of "prompt" (also "text") or
    "prompt_token_ids". `name`: what messages call `given`.

    Raises RequestError that says which one is of another form.
    """
    if isinstance(given, (str, Mapping)):
        return [_prompt(given, name, None)]
    items = _items(given, name, _PROMPTS)
    if items and all(type(item) is int or isinstance(item, Integral) for item in items):
        return [GivenPrompt(None, _token_ids(items, name), None)]
    return [_prompt(item, f"{name}[{index}]", f"{name}[{index}]") for index, item in enumerate(items)]


def given_texts(given: Any, name: str) -> list[GivenPrompt]:
    """The same for what must be text, as the sides of a pair: a string, a mapping of "text" (also "prompt"), or a list
    of these."""
    if isinstance(given, (str, Mapping)):
        return [GivenPrompt(_text(given, name), None, None)]
    places = ((f"{name}[{index}]", item) for index, item in enumerate(_items(given, name, _TEXTS)))
    return [GivenPrompt(_text(item, place), None, place) for place, item in places]


def _prompt(item: Any, called: str, place: str | None) -> GivenPrompt:
    if isinstance(item, str):
        return GivenPrompt(item, None, place)
    if not isinstance(item, Mapping):
        return GivenPrompt(None, _token_ids(_items(item, called, _PROMPTS), called), place)
    salt, ids = item.get("cache_salt"), item.get("prompt_token_ids")
    text = None if ids is not None and item.get("prompt") is None else _text(item, called)
    if ids is None:
        return GivenPrompt(text, None, place, salt)
    called = f'{called}["prompt_token_ids"]'
    return GivenPrompt(text, _token_ids(_items(ids, called, _PROMPTS), called), place, salt)


def _text(item: Any, called: str) -> str:
    if isinstance(item, Mapping):
        found = [(key, item[key]) for key in _TEXT_KEYS if item.get(key) is not None]
        if len(found) != 1:
            keys = ", ".join(map(repr, item)) or "nothing"
            raise RequestError(f"{called} is a mapping of {keys}.", f"It must have one of {', '.join(_TEXT_KEYS)}.")
        key, item = found[0]
        called = f'{called}["{key}"]'
    if not isinstance(item, str):
        raise RequestError(f"{called} is {_shown(item)}, where text is needed.", _TEXTS)
    return item


def _items(given: Any, called: str, hint: str) -> list[Any]:
    """Bytes are sequences of integers, and sets have no order: both are a mistake."""
    if isinstance(given, (str, bytes, bytearray, memoryview, Mapping, Set)) or not isinstance(given, Iterable):
        raise RequestError(f"{called} is {_shown(given)}.", hint)
    try:
        return list(given)
    except TypeError:  # an array without axes
        raise RequestError(f"{called} is {_shown(given)}.", hint) from None


def _token_ids(items: list[Any], called: str) -> tuple[int, ...]:
    for index, item in enumerate(items):
        if type(item) is not int and (isinstance(item, bool) or not isinstance(item, Integral)):
            raise RequestError(f"{called}[{index}] is {_shown(item)}; token ids are integers.", _PROMPTS)
    return tuple(map(int, items))


def _shown(value: Any) -> str:
    short = value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 10**9)
    return str(value) if short else f"of type {type(value).__name__}"
