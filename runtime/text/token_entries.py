"""Tokens as tokenizer_config.json lists them: by id, by name, and further ones; each a string or an object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tokenizers

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BY_ID = "added_tokens_decoder"
_FURTHER = ("extra_special_tokens", "additional_special_tokens")
# Digits of an id, far more than one has: Python reads no number of thousands.
_MOST_DIGITS = 18
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def problems(config: dict[str, Any]) -> list[str]:
    """What in the contents of a tokenizer_config.json has the wrong type, by name; empty when all is well."""
    found = [] if isinstance(config.get("tokenizer_class"), str | None) else ["tokenizer_class is no string"]
    by_id = config.get(_BY_ID, {})
    if not isinstance(by_id, dict) or not all(map(_is_id, by_id)):
        found.append(f"{_BY_ID} is no object whose keys are ids")
    found += [
        f"{key} is no list and no object" for key in _FURTHER if not isinstance(config.get(key), list | dict | None)
    ]
    if not found:
        found = [f"{place} is no token" for place, token in _placed(config) if not _is_token(token)]
    return found


def listed_by_id(config: dict[str, Any]) -> list[Any]:
    """The tokens of added_tokens_decoder, in the order of their ids."""
    return [token for _, token in sorted(config.get(_BY_ID, {}).items(), key=lambda item: int(item[0]))]


def named(config: dict[str, Any]) -> dict[str, Any]:
    """The tokens that have a name of NAMED_TOKENS, by it."""
    return {name: config[name] for name in NAMED_TOKENS if config.get(name) is not None}


def further(config: dict[str, Any]) -> list[Any]:
    """The special tokens beside the named ones."""
    extra: Any = next((config[key] for key in _FURTHER if config.get(key)), [])
    return list(extra.values() if isinstance(extra, dict) else extra)


def content(token: Any) -> str:
    """The text of a token."""
    return str(token["content"] if isinstance(token, dict) else token)


def added_token(token: Any) -> tokenizers.AddedToken:
    """A token for the `tokenizers` library."""
    if not isinstance(token, dict):
        return tokenizers.AddedToken(token, special=True, normalized=False)
    flags = {name: token[name] for name in _FLAGS if name in token}
    return tokenizers.AddedToken(token["content"], special=token.get("special", True), **flags)


def _placed(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"{_BY_ID}[{key!r}]", token) for key, token in config.get(_BY_ID, {}).items())
    yield from named(config).items()
    yield from (("one of the special tokens", token) for token in further(config))


def _is_id(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= _MOST_DIGITS


def _is_token(token: Any) -> bool:
    if not isinstance(token, dict):
        return isinstance(token, str)
    flags = (token.get(name, False) for name in (*_FLAGS, "special"))
    return isinstance(token.get("content"), str) and all(isinstance(flag, bool) for flag in flags)
