"""Origins of web pages that may call the API."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import typer

# As browsers send it: "null" is that of a page from a file.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")


def read_origins(given: Sequence[str]) -> tuple[str, ...]:
    """Origins one by one, between commas as text-generation-launcher takes them, or as the JSON list of vllm serve.

    Raises BadParameter for one that is none.
    """
    found: list[str] = []
    for text in given:
        try:
            listed = json.loads(text) if text.startswith("[") else text.split(",")
        except ValueError:
            listed = [text]
        found += [str(each).strip() for each in listed]
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise typer.BadParameter(
                f"--cors-origin {origin} is no origin: give scheme and host, as https://page.example or "
                "http://localhost:3000, without a path; * for all."
            )
    return tuple(found)
