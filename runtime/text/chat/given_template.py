"""A chat template that takes the place of the model's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inflight.errors import InflightError

# What every template has, and no path.
_MARKS = ("{{", "{%")


def load_chat_template(chat_template: str | Path | None) -> str | None:
    """The Jinja source of a template that is given as a file, or as it is; None for None.

    Raises InflightError for what is neither.
    """
    if chat_template is None:
        return None
    if isinstance(chat_template, str) and any(mark in chat_template for mark in _MARKS):
        return chat_template
    path = Path(chat_template).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InflightError(
            f"The chat template {str(path)!r} cannot be read: {error}.",
            "Give a file with a Jinja template, or the template itself.",
        ) from error


def read_template_variables(text: str | None) -> dict[str, Any]:
    """Variables for chat templates as a JSON object. Raises InflightError for anything else."""
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InflightError(f"Variables of the chat template are no JSON: {error}.", _HINT) from error
    if not isinstance(found, dict):
        raise InflightError("Variables of the chat template must be a JSON object.", _HINT)
    return found


_HINT = """They look like '{"enable_thinking": false}'."""
