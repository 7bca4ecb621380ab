"""Flags of other servers on the command line: rewritten to the options here, noted, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inflight.errors import InflightError
from inflight.migration.row import MODEL, NOTED, REFUSED, Row, letters
from inflight.migration.sources import ranked

# In front of the value of the argument that a command has without an option; nobody can type it.
ARGUMENT = "-\0"


class ForeignFlagError(InflightError):
    """A flag that is known from elsewhere and cannot be honoured. It is a usage error: exit code 2."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Item:
    """One option or argument as it was typed. `option`: the name of the option here, "" for arguments and what is not
    passed on."""

    option: str
    words: tuple[str, ...]


@dataclass(slots=True)
class Reading:
    """`notes`: reason -> the flags that change nothing for that reason. `environment`: variables that flags set."""

    items: list[Item] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def note(self, why: str, name: str) -> None:
        names = self.notes.setdefault(why, [])
        if name not in names:
            names.append(name)


class FlagReader:
    """Reads the words of one command, whose options are `params`; underscores and hyphens are the same."""

    def __init__(self, verb: str, params: Sequence[Any]) -> None:
        self._verb = verb
        self._options: dict[str, Any] = {}
        for option in params:
            if option.param_type_name == "option":
                for name in (*option.opts, *option.secondary_opts):
                    self._options[name] = option
        self._spelled = {letters(name): name for name in self._options if name.startswith("--") and "_" not in name}

    def own(self, name: str) -> str | None:
        """The option of this command that `name` is, as it is spelled here."""
        if name in self._options:
            return name
        return self._spelled.get(letters(name)) if name.startswith("--") else None

    def is_flag(self, name: str) -> bool:
        """Whether an option of this command takes no value."""
        return bool(self._options[name].is_flag)

    def identity(self, name: str) -> str:
        """What two spellings of one option have in common."""
        return str(self._options[name].name)

    def find(self, name: str, words: Iterable[str]) -> Row | None:
        """The row of another tool's flag; `words` say which tool is meant, where two have it."""
        bare = name.partition(".")[0]
        key = letters(bare) if bare.startswith("--") else bare
        typed = {letters(word.partition("=")[0]) for word in words if word.startswith("-")}
        for source in ranked(self._verb, typed):
            row = source.by_name.get(key) or source.by_name.get(key.removeprefix("no-"))
            if row is not None and (key in source.by_name or not row.takes):
                return row
        return None

    def read(self, words: Sequence[str]) -> Reading:
        """Raises ForeignFlagError for a flag that cannot be honoured. Flags that nobody knows stay as they are."""
        reading, rest = Reading(), list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                reading.items += [Item("", (word,)), *(Item("", (each,)) for each in rest)]
                break
            if not word.startswith("-") or word == "-" or word[1:2].isdigit():
                reading.items.append(Item("", (word,)))
                continue
            name, sign, inline = word.partition("=")
            if name == ARGUMENT:
                reading.items.append(Item(MODEL, (rest.pop(0),)))
            elif (own := self.own(name)) is not None:
                self._own(reading, own, inline if sign else None, rest, words)
            elif (row := self.find(name, words)) is not None:
                values = [inline] if sign else self._values(row, rest)
                self._foreign(reading, row, name, values)
            else:
                reading.items.append(Item(name, (word,)))
        return reading

    def _own(self, reading: Reading, name: str, inline: str | None, rest: list[str], words: Sequence[str]) -> None:
        option = self._options[name]
        values = [] if inline is None else [inline]
        if inline is None and not option.is_flag:
            values = [rest.pop(0) for _ in range(min(option.nargs, len(rest)))]
        row = self.find(name, words) if values and name.startswith("--") else None
        if row is not None and row.verdict == "honoured" and len(values) == 1:
            read = self._value(reading, row, name, values[0])
            if read is None:
                return
            values = [read]
        joined = (f"{name}={values[0]}",) if inline is not None else (name, *values)
        reading.items.append(Item(str(option.name), joined))

    def _values(self, row: Row, rest: list[str]) -> list[str]:
        """Takes from `rest` the values of a flag."""
        most = {"": 0, "=": 1, "?": 1, "*": len(rest)}[row.takes]
        found: list[str] = []
        while rest and len(found) < most and (row.takes == "=" or not rest[0].startswith("-")):
            found.append(rest.pop(0))
        return found

    def _foreign(self, reading: Reading, row: Row, name: str, values: list[str]) -> None:
        turned_off = not row.takes and (
            letters(name).startswith("no-") or any(row.asks_for_nothing(value) for value in values)
        )
        if row.verdict == "noted":
            if not turned_off:
                reading.note(row.why, name)
        elif row.verdict == "refused":
            if not turned_off and not (values and all(map(row.asks_for_nothing, values))):
                # A value is shown where another one would do: what is given beside other flags may be a secret.
                given = " ".join([name, *values]) if row.fine else name
                raise ForeignFlagError(f"{given} is not supported: {row.why}")
        elif not row.takes:
            here = row.here.replace("--no-", "--") if turned_off else row.here
            reading.items.append(Item(self.identity(here), (here,)))
        else:
            for value in values:
                self._honour(reading, row, name, value)

    def _honour(self, reading: Reading, row: Row, name: str, value: str) -> None:
        read = self._value(reading, row, name, value)
        if read is None:
            return
        if row.here == MODEL:
            reading.items.append(Item(MODEL, (read,)))
        elif row.here.startswith("-"):
            if row.rival:
                reading.note(f"{row.rival}.", f"{name} was read as {row.here}")
            reading.items.append(Item(self.identity(row.here), (row.here, read)))
        else:
            reading.environment[row.here] = read

    def _value(self, reading: Reading, row: Row, name: str, value: str) -> str | None:
        """The value as it is called here; None: it asks for what there is anyhow."""
        read = value if row.read is None else row.read(value)
        meaning = row.values.get(read, read)
        if meaning.startswith(REFUSED) and meaning != value:
            raise ForeignFlagError(f"{name} {value} is not supported: {meaning[1:]}")
        if meaning.startswith(NOTED) and meaning != value:
            reading.note(meaning[1:], f"{name} {value}")
            return None
        return meaning


def in_words(notes: dict[str, list[str]]) -> Iterator[str]:
    """The notes, a line for each reason."""
    for why, names in notes.items():
        if " was read as " in names[0]:
            yield f"note: {', '.join(names)}; {why}"
            continue
        verb = "changes" if len(names) == 1 else "change"
        yield f"note: {', '.join(names)} {verb} nothing here: {why}"
