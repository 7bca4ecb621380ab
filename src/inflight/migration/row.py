"""A row of the tables of foreign names, and the notation in which the tables are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["honoured", "noted", "refused"]
# How many values follow a flag: none, one, one or none, any number.
Takes = Literal["", "=", "?", "*"]

# What begins the meaning of a value that is not passed on: a refusal, and a note.
REFUSED, NOTED = "!", "~"
# The meaning of the argument that a command has without a flag.
MODEL = "MODEL"

# Of a flag that would be refused, whatever it is: who says this asks for nothing.
ASKS_FOR_NOTHING = frozenset({"", "0", "0.0", "false", "none", "null", "disable", "disabled", "off", "no", "{}", "[]"})


@dataclass(frozen=True, slots=True)
class Row:
    """One flag of another tool, with all its spellings, the first of which is the usual one.

    `here`: the option that it is here, MODEL for the argument without a flag; with `verdict` honoured alone.
    `why`: of what is noted, why it changes nothing; of what is refused, why, and what to do instead; of what is
    honoured, what differs.
    `values`: what values are called here, where that differs; `!reason` refuses one, `~reason` drops it with a note.
    `fine`: values of a refused flag that ask for nothing, beside ASKS_FOR_NOTHING. `read` rewrites a value, as 8k;
    what it gives may be a refusal or a note, too.
    `extra`: what the option here needs beside its value. `rival`: another tool means another thing by this name; what.
    """

    names: tuple[str, ...]
    takes: Takes
    verdict: Verdict
    why: str = ""
    here: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    fine: frozenset[str] = frozenset()
    read: Callable[[str], str] | None = None
    rival: str = ""

    @property
    def name(self) -> str:
        return self.names[0]

    def asks_for_nothing(self, value: str) -> bool:
        lower = value.strip().lower()
        return lower in ASKS_FOR_NOTHING or lower in self.fine


def honoured(
    flags: str,
    here: str,
    why: str = "",
    *,
    values: Mapping[str, str] | None = None,
    read: Callable[[str], str] | None = None,
    rival: str = "",
) -> tuple[Row, ...]:
    """Rows of flags in the notation of `_spelled`, each of which is the option `here`."""
    return tuple(
        Row(names, takes, "honoured", why, here, dict(values or {}), read=read, rival=rival)
        for names, takes in _spelled(flags)
    )


def noted(why: str, flags: str) -> tuple[Row, ...]:
    """Rows of flags that change nothing here, and why."""
    return tuple(Row(names, takes, "noted", why) for names, takes in _spelled(flags))


def refused(why: str, flags: str, *, fine: Iterable[str] = (), rival: str = "") -> tuple[Row, ...]:
    """Rows of flags that cannot be honoured, and why. `fine`: values that ask for nothing all the same."""
    return tuple(
        Row(names, takes, "refused", why, fine=frozenset(fine), rival=rival) for names, takes in _spelled(flags)
    )


def _spelled(flags: str) -> list[tuple[tuple[str, ...], Takes]]:
    """Flags between blanks: `name` takes no value, `name=` one, `name=?` one or none, `name=*` any number. Spellings
    are divided by `|`; one that has no hyphen in front gets two."""
    found: list[tuple[tuple[str, ...], Takes]] = []
    for word in flags.split():
        spelled, sign, several = word.partition("=")
        takes: Takes = "" if not sign else "?" if several == "?" else "*" if several == "*" else "="
        names = tuple(name if name.startswith("-") else f"--{name}" for name in spelled.split("|"))
        found.append((names, takes))
    return found


def letters(name: str) -> str:
    """A flag or a keyword without what differs between spellings: hyphens in front, underscores for hyphens."""
    return name.lstrip("-").replace("_", "-")


def whole_number(text: str) -> str:
    """8k, 1M and 2G as vLLM reads them (1K is 1024, 1k is 1000); anything else as it is."""
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        return str(round(float(number) * units[unit])) if unit in units else text
    except ValueError:
        return text


def of_gib(text: str) -> str:
    """Bytes of GiB."""
    return _scaled(text, 2**30)


def of_gb(text: str) -> str:
    """Bytes of GB."""
    return _scaled(text, 10**9)


def _scaled(text: str, factor: int) -> str:
    try:
        return str(round(float(text) * factor))
    except (ValueError, OverflowError):
        return text
