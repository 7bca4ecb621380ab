"""Signatures as `help()` shows them, without what differs from run to run."""

from __future__ import annotations

import inspect
from typing import Any

MAX_CHARS = 140


def signature_of(owner: Any, short_name: str) -> str:
    """`short_name(parameters)`, or "" where the interpreter knows no signature or it is too long to be read.

    Annotations are dropped; a default whose text is an address or an object at some place becomes `...`.
    """
    try:
        signature = inspect.signature(owner)
    except (ValueError, TypeError):
        return ""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_stable(parameter.default))
        for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return short_name + text if len(short_name + text) <= MAX_CHARS else ""


class _Shown:
    """A default value with a text of its own."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _stable(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return default
    text = repr(default)
    unstable = text.startswith("<") or " at 0x" in text or "/" in text or len(text) > 40
    return _Shown("...") if unstable else _Shown(text)
