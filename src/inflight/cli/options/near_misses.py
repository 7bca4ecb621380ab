"""An option that a command does not have: which one was meant, by its letters or by what other tools call it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

# Names of other tools, without hyphens -> the option here.
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(
        ("maxnewtokens", "maxoutputtokens", "maxcompletiontokens", "maxlength", "numpredict", "npredict", "outputlen"),
        "--max-tokens",
    ),
    "temp": "--temperature",
    "randomseed": "--seed",
    **dict.fromkeys(("quantization", "weightonlyprecision"), "--quantize"),
    **dict.fromkeys(
        ("maxinputlen", "maxsequencelen", "maxsequencelength", "maxcontextlen", "ctxsize", "contextlength"),
        "--max-seq-len",
    ),
    **dict.fromkeys(("batchsize", "maxconcurrency"), "--max-batch-size"),
}
# From here on only one option can have been meant; below the lower, none.
_SURE, _LIKELY = 0.9, 0.6
_MOST_NAMES = 3


class Command(TyperCommand):
    """A command that says which option was meant by one that it does not have."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter.__base__ as error:  # type: ignore[misc]  # typer does not name its usage errors
            if asked := getattr(error, "option_name", None) if hasattr(error, "possibilities") else None:
                # Its own, by the alphabet, would follow.
                error.possibilities = None
                error.message = f"No such option: {asked}. {self._hint(ctx, asked)}".strip()
            raise

    def _hint(self, ctx: Any, asked: str) -> str:
        letters = _letters(asked)
        own = {_letters(name) for option in self.params for name in option.opts if name.startswith("--")}
        for argument in self.params:
            known = argument.param_type_name == "argument" and letters in _names_of_argument(argument)
            if known and letters not in own:
                usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
                return f"{_metavar(argument)} is given without an option: {usage}"
        options = [[name for name in option.opts if name.startswith("--")] for option in self.params]
        if meant := likely_options(asked, options):
            return f"Did you mean {' or '.join(meant)}?"
        return ""


def likely_options(asked: str, options: Sequence[Sequence[str]]) -> list[str]:
    """Which of `options`, each with its names, were meant by `asked`; one alone where there is no doubt.

    They come by their first names (with hyphens, where they have some), the likeliest first.
    """
    letters = _letters(asked)
    shown = [(min(names, key=lambda name: "_" in name), names) for names in options if names]
    first = {_letters(name): best for best, names in shown for name in names}
    if letters in first:
        return [first[letters]]
    if (meant := _MEANT.get(letters)) in first.values():
        return [str(meant)]
    close = difflib.get_close_matches(letters, first, _MOST_NAMES, _LIKELY)
    sure = bool(close) and difflib.SequenceMatcher(None, close[0], letters).ratio() >= _SURE
    return list(dict.fromkeys(first[name] for name in (close[:1] if sure else close)))


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _names_of_argument(argument: Any) -> set[str]:
    """What its option would be called, were it one: PROMPT... as --prompt, --prompts or -p."""
    names = set(_letters(_metavar(argument).rstrip(".")).split("|"))
    # Where an engine is asked for, a model is taken, too.
    names |= {"model"} if "engine" in names else set()
    return (
        names | {f"{name}{ending}" for name in names for ending in ("s", "dir", "path")} | {name[:1] for name in names}
    )
