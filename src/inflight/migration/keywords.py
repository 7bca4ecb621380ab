"""Foreign names of keyword arguments: translated, noted once, or refused with the reason."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from inflight.errors import RequestError
from inflight.migration.row import MODEL, NOTED, REFUSED, Row, letters
from inflight.migration.sources import Source


class ForeignNameError(RequestError, TypeError):
    """A keyword argument that is none here, or that cannot be honoured."""


class HarmlessNameWarning(UserWarning):
    """A keyword argument that changes nothing here."""


_told: set[tuple[str, str]] = set()


def read_keywords(given: Mapping[str, Any], source: Source, own: Collection[str]) -> dict[str, Any]:
    """`given` under the names that are here, without what asks for nothing. `own`: names that are passed as they are.

    What changes nothing is said once in a process. Raises ForeignNameError naming every name that cannot be honoured.
    """
    rows = {name: source.by_name.get(letters(name)) for name in given}
    # An own name of the same meaning has the values of the other tool, too.
    plain = {name for name, row in rows.items() if name in own and (row is None or row.verdict != "honoured")}
    found = {name: given[name] for name in plain}
    problems: list[str] = []
    for name, value in given.items():
        row = rows[name]
        if name in plain:
            continue
        if row is None:
            problems.append(_unknown(name, source, own))
        elif row.verdict == "noted":
            _note(source, name, row.why)
        elif row.verdict == "refused":
            if value and not row.asks_for_nothing(str(value)):
                asked = f"{name}={_shown(value)}" if row.fine or value is True else name
                problems.append(f"{asked} of {source.tool.rpartition('.')[2]} is not supported: {row.why}")
        elif value is not None:
            _honour(found, problems, source, row, name, value)
    if problems:
        raise ForeignNameError("\n".join(problems))
    return found


def _honour(found: dict[str, Any], problems: list[str], source: Source, row: Row, name: str, value: Any) -> None:
    if row.read is not None and isinstance(value, str | dict):
        value = row.read(value if isinstance(value, str) else json.dumps(value))
    meaning = row.values.get(str(value), value)
    if isinstance(meaning, str) and meaning[:1] == REFUSED:
        problems.append(f"{name}={_shown(value)} is not supported: {meaning[1:]}")
    elif isinstance(meaning, str) and meaning[:1] == NOTED:
        _note(source, f"{name}={_shown(value)}", meaning[1:])
    else:
        here = "model" if row.here == MODEL else row.here.lstrip("-").replace("-", "_")
        if here in found:
            problems.append(f"{name} is {here} under another name, which is given, too.")
        found[here] = meaning


def _note(source: Source, name: str, why: str) -> None:
    if (source.tool, name) not in _told:
        _told.add((source.tool, name))
        owner = source.tool.rpartition(".")[2]
        warnings.warn(f"{name} of {owner} changes nothing here: {why}", HarmlessNameWarning, stacklevel=5)


def _unknown(name: str, source: Source, own: Collection[str]) -> str:
    near = difflib.get_close_matches(name, [*own, *(each.replace("-", "_") for each in source.by_name)], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{source.tool.rpartition('.')[2]} has no parameter {name}.{hint}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
