"""The fields of targets' recipes as flags of `inflight build-engine`, and of `inflight serve`, which builds too."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from inflight.build.recipe import BuildRecipe, Flag, flag_name
from inflight.build.registry import TARGETS, find_target, loadable_targets

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

# What the command line reads as it is; other types are read as text, and the recipe says what it makes of that.
_READ_AS_THEY_ARE = (bool, int, float, str, Path)


def with_recipe_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, called with `flags`: the given ones of every field of every target's recipe, by field name.

    Where a target cannot be loaded its flags are not known: then the command gets unknown options in `ctx.args`.
    """
    return _with_flags(command, _fields())


def with_flags_of(target: str, panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same with the fields of one target's recipe alone, under one heading of --help."""
    recipe = find_target(target).recipe_class()
    fields = [(name, (field, panel)) for name, field in recipe.model_fields.items()]
    return lambda command: _with_flags(command, fields)


def _with_flags(
    command: Callable[..., None], offered: Iterable[tuple[str, tuple[FieldInfo, str | None]]]
) -> Callable[..., None]:
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "flags"]
    fields = {name: found for name, found in offered if name not in signature.parameters}
    added = [_parameter(name, *found) for name, found in fields.items()]

    @functools.wraps(command)
    def wrapped(ctx: typer.Context, **values: Any) -> None:
        flags = {name: _value(values.pop(name), fields[name][0]) for name in fields}
        command(ctx, flags={name: value for name, value in flags.items() if is_given(ctx, name)}, **values)

    whole = [*own, *added]
    wrapped.__signature__ = signature.replace(parameters=whole)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in whole}
    return wrapped


def context_settings() -> dict[str, bool] | None:
    """Unknown options are let through where they may be those of a target that cannot be loaded."""
    whole = len(loadable_targets()) == len(TARGETS.names())
    return None if whole else {"ignore_unknown_options": True, "allow_extra_args": True}


def registered(name: str) -> str:
    """The name of a target, as it was given. Raises BadParameter where there is none."""
    if name not in TARGETS.names():
        raise typer.BadParameter(f"There is no target {name}. Registered are {', '.join(TARGETS.names())}.")
    return name


def summaries() -> str:
    """A sentence on each target, for --help."""
    return " ".join(f"{name}: {target.summary}" for name, target in loadable_targets().items())


def _fields() -> Iterator[tuple[str, tuple[FieldInfo, str | None]]]:
    """Every field with its panel in --help: the common ones, then those of each target."""
    yield from ((name, (field, None)) for name, field in BuildRecipe.model_fields.items())
    owners: dict[str, list[str]] = {}
    fields: dict[str, FieldInfo] = {}
    for target, found in loadable_targets().items():
        recipe = found.recipe_class()
        for name in recipe.own_fields():
            owners.setdefault(name, []).append(target)
            fields.setdefault(name, recipe.model_fields[name])
    for name, field in fields.items():
        yield name, (field, f"Target {' or '.join(owners[name])}")


def _parameter(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    flag = next((one for one in field.metadata if isinstance(one, Flag)), Flag(help=field.description or ""))
    kind = _kind(field.annotation)
    several = get_origin(kind) is tuple
    default = field.get_default()
    first = flag_name(name) if flag.off is None else f"{flag_name(name)}/{flag.off}"
    spellings = dict.fromkeys([first, f"--{name}", *flag.names]) if flag.off is None else [first]
    option = typer.Option(*spellings, help=flag.help, min=flag.least, rich_help_panel=panel)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=(list(default) or None) if several else default,
        annotation=Annotated[(list[str] if several else _readable(kind)) | None, option],
    )


def _kind(annotation: Any) -> Any:
    """The type without None and without metadata."""
    while get_origin(annotation) in (Annotated, Union, types.UnionType):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    return annotation


def _readable(kind: Any) -> Any:
    return kind if kind in _READ_AS_THEY_ARE or get_origin(kind) is Literal else str


def _value(value: Any, field: FieldInfo) -> Any:
    if get_origin(_kind(field.annotation)) is not tuple or value is None:
        return value
    return tuple(name for given in value for name in given.split(",") if name)


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether the parameter of that name stands on the command line, whatever its value."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


Flags = Mapping[str, Any]
