"""The options of a command from other places than its line: a YAML file, and environment variables."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inflight.cli.options.foreign import ARGUMENT, FlagReader, ForeignFlagError, Item, Reading
from inflight.errors import InflightError
from inflight.migration.row import MODEL, letters
from inflight.migration.sources import ENVIRONMENT, TGI, TGI_MARK

PREFIX = "INFLIGHT_"
# Variables of this name that are no options.
_OTHERS = ("INFLIGHT_CACHE",)
_SWITCHES: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on", "enable"), True),
    **dict.fromkeys(("false", "0", "no", "off", "disable", ""), False),
}


class ConfigFileError(InflightError):
    """A file of options that cannot be read, or has an option that is none."""

    exit_code = 2


def words_of_file(path: Path, reader: FlagReader, argument: frozenset[str]) -> list[str]:
    """The options in a YAML file as words of a command line. Keys are options without hyphens in front; underscores and
    hyphens are the same. `argument`: keys of the argument that has no option.

    Raises ConfigFileError when the file is no mapping, or has a key that is no option of the command.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"--config {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise ConfigFileError(f"--config {path} is not YAML: {error}") from None
    if found is None:
        return []
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigFileError(f"--config {path} is no mapping.", "It has a line `option: value` for each option.")
    names = [f"--{letters(key)}" for key in found]
    words: list[str] = []
    for (key, value), name in zip(found.items(), names, strict=True):
        if name == "--config":
            raise ConfigFileError(f"--config {path} names a file of options itself.")
        if letters(key) in argument:
            words += [ARGUMENT, str(value)]
            continue
        spelled = _spelled(name, value, reader, names)
        if spelled is None:
            raise ConfigFileError(f"--config {path}: {key} is no option of this command.")
        words += spelled
    return words


def words_of_environment(
    reader: FlagReader, argument: frozenset[str], serves: bool, variables: Mapping[str, str] = os.environ
) -> Iterator[tuple[str, list[str]]]:
    """Each variable that is an option, with its words: INFLIGHT_MAX_SEQ_LEN is --max-seq-len. Of a command that serves
    also those of other servers; TGI's, which have names like PORT, where MODEL_ID is among them."""
    for variable, value in sorted(variables.items()):
        if variable.startswith(PREFIX) and variable not in _OTHERS:
            name = "--" + letters(variable[len(PREFIX) :].lower())
            if letters(name) in argument:
                yield variable, [ARGUMENT, value]
            elif words := _spelled(name, value, reader, [name]):
                yield variable, words
    if not serves:
        return
    for variable, row in ENVIRONMENT.items():
        if variable in variables:
            value = variables[variable]
            value = value if row.read is None else row.read(value)
            if row.verdict == "refused":
                raise ForeignFlagError(f"{variable} is set: {row.why}")
            yield variable, [row.here, value]
    if TGI_MARK not in variables:
        return
    for row in TGI.rows:
        if row.name == "--env":  # the one flag that is no variable there, and a usual name of another one
            continue
        variable = letters(row.name).replace("-", "_").upper()
        value = variables.get(variable, "")
        # Containers set HOSTNAME to their own name.
        if value and not (variable == "HOSTNAME" and value == socket.gethostname()):
            if row.here == MODEL:
                yield variable, [ARGUMENT, value]
            elif words := _spelled(row.name, value, reader, ["--model-id", row.name]):
                yield variable, words


def _spelled(name: str, value: Any, reader: FlagReader, names: Sequence[str]) -> list[str] | None:
    """An option and its value as words; None for one that nobody knows."""
    own = reader.own(name)
    row = None if own is not None else reader.find(name, names)
    if own is None and row is None:
        return None
    takes_value = not reader.is_flag(own) if own is not None else bool(row and row.takes)
    if value is None:
        return []
    if not takes_value:
        value = _SWITCHES.get(str(value).strip().lower(), value)
        if value is True:
            return [own or name]
        if value is not False:
            raise ConfigFileError(f"{name} is on or off: true or false, and not {value!r}.")
        off = "--no-" + name.removeprefix("--no-")[2:]
        return [off] if own is None or reader.own(off) else []
    if isinstance(value, (list, tuple)):
        if own is None:
            return [name, *map(_text, value)]
        return [word for each in value for word in (own, _text(each))]
    return [f"{own or name}={_text(value)}"]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def merged(line: Reading, others: Sequence[Reading]) -> Reading:
    """The line with what the others add: an option that stands in an earlier one is not taken from a later one."""
    whole = Reading(list(line.items), dict(line.notes), dict(line.environment))
    given = {item.option for item in line.items} | ({MODEL} if _has_argument(line.items) else set())
    for other in others:
        added = [item for item in other.items if item.option not in given]
        whole.items = [*added, *whole.items]
        given |= {item.option for item in added}
        whole.environment = {**other.environment, **whole.environment}
        for why, names in other.notes.items():
            for name in names:
                whole.note(why, name)
    return whole


def _has_argument(items: Sequence[Item]) -> bool:
    return any(item.option in ("", MODEL) for item in items)


def read_line(verb: str, params: Sequence[Any], words: Sequence[str]) -> Reading:
    """The words of a command line, rewritten to the options that are here, with those of --config and of environment
    variables. Raises ForeignFlagError and ConfigFileError."""
    reader = FlagReader(verb, params)
    line = reader.read(words)
    arguments = [param for param in params if param.param_type_name == "argument"]
    names = names_of_argument(arguments[0]) if len(arguments) == 1 else frozenset()
    files = [item.words[-1].removeprefix("--config=") for item in line.items if item.option == "config"]
    others = [reader.read(words_of_file(Path(file).expanduser(), reader, names)) for file in files[-1:]]
    found = [word for _, each in words_of_environment(reader, names, verb == "serve") for word in each]
    return merged(line, [*others, reader.read(found)])


def names_of_argument(argument: Any) -> frozenset[str]:
    """What its option would be called, were it one: PROMPT... as prompt, prompts or p."""
    metavar = str(argument.metavar or argument.name.upper())
    names = {name.lower() for name in metavar.rstrip(".").split("|")}
    # Where an engine is asked for, a model is taken, too.
    names |= {"model"} if "engine" in names else set()
    return frozenset(
        names
        | {f"{name}{end}" for name in names for end in ("s", "-dir", "-path", "dir", "path")}
        | {name[:1] for name in names}
    )
