"""The models of a server, by the names that requests have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from inflight.errors import InflightError
from inflight.records import Record

# They stand in paths, and in the names of Triton's models. Ollama's tags have a colon, which folders may not.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Between the name of a model and that of one of Triton's models for it: `small.tensorrt_llm`.
TRITON_SEPARATOR = "."


class ServedModel(Record):
    """An engine, and its name for clients."""

    name: str
    engine_dir: Path


def split_names(given: Sequence[str]) -> dict[str, str]:
    """Name -> engine or model, of the arguments `NAME=MODEL` of a command; without a name, the last part of the path
    or hub id. Raises InflightError for a name that is none, or is there twice."""
    models: dict[str, str] = {}
    for each in given:
        name, sign, model = each.partition("=")
        if not sign or Path(each).expanduser().exists():
            name, model = Path(each.rstrip("/")).name, each
        if not _NAME.fullmatch(name) or not model:
            raise InflightError(
                f"{each!r} names no model.",
                "Several models are written NAME=MODEL; a name has letters, digits, dots, hyphens and underscores.",
            )
        if name in models:
            raise InflightError(f"Two models have the name {name!r}.", "Give each its own: NAME=MODEL.")
        models[name] = model
    return models


def names_models(given: Sequence[str]) -> bool:
    """Whether the arguments ask for models by name: several, or one NAME=MODEL."""
    first = given[0].partition("=")[0]
    return len(given) > 1 or (_NAME.fullmatch(first) is not None and first != given[0] and not _exists(given[0]))


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()
