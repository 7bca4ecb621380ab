"""An option or a command that is not there: which one was meant, by its letters or by what other tools call it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from inflight.cli.options.foreign import in_words
from inflight.cli.options.settings import names_of_argument, read_line
from inflight.migration.row import MODEL

# Names of other tools, without hyphens -> the option here.
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(
        ("maxnewtokens", "maxoutputtokens", "maxcompletiontokens", "maxlength", "numpredict", "npredict", "outputlen"),
        "--max-tokens",
    ),
    "temp": "--temperature",
    "randomseed": "--seed",
    "weightonlyprecision": "--quantize",
    **dict.fromkeys(
        ("maxinputlen", "maxsequencelen", "maxsequencelength", "maxcontextlen", "ctxsize", "contextlength"),
        "--max-seq-len",
    ),
    **dict.fromkeys(("batchsize", "maxconcurrency"), "--max-batch-size"),
}
# Commands under other names, without hyphens -> the command here.
_VERBS: Mapping[str, str] = {
    **dict.fromkeys(("build", "compile", "trtllmbuild", "buildmodel", "engine", "make"), "build-engine"),
    **dict.fromkeys(("convertcheckpoint", "convertcheckpoint.py", "quantize", "quantize.py", "import"), "convert"),
    **dict.fromkeys(("server", "start", "launch", "launchserver", "apiserver", "up", "trtllmserve", "run"), "serve"),
    **dict.fromkeys(("complete", "completion", "completions", "infer", "predict", "runprompt"), "generate"),
    **dict.fromkeys(("benchmark", "benchserving", "perf"), "bench"),
    **dict.fromkeys(("evaluate", "lmeval", "accuracy", "perplexity"), "eval"),
    **dict.fromkeys(("info", "show", "describe", "list"), "inspect"),
    **dict.fromkeys(("test", "check", "compare", "validate"), "verify"),
    **dict.fromkeys(("makerepository", "filltemplate", "filltemplate.py", "repo", "modelrepo"), "make-repo"),
    **dict.fromkeys(("env", "collectenv", "collectenv.py", "version"), "doctor"),
}
# From here on only one option can have been meant; below the lower, none.
_SURE, _LIKELY = 0.9, 0.6
_MOST_NAMES = 3


class Group(TyperGroup):
    """Commands; one that is not there is answered with the one that was meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except typer.BadParameter.__base__ as error:  # type: ignore[misc]  # typer does not name its usage errors
            verbs = self.list_commands(ctx)
            meant = _VERBS.get(_letters(args[0])) if args else None
            close = difflib.get_close_matches(_letters(args[0]), {_letters(verb): verb for verb in verbs}, 1, _LIKELY)
            if meant is None or meant not in verbs:
                meant = next((verb for verb in verbs if close and _letters(verb) == close[0]), None)
            hint = f"Did you mean {meant}?" if meant else f"There are {', '.join(verbs)}."
            error.message = f"No such command: {args[0]}. {hint}"
            raise


class Command(TyperCommand):
    """A command that says which option was meant by one that it does not have.

    It takes its options from environment variables and a YAML file, too, and other tools' names for them.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.append(
            TyperOption(
                param_decls=["--config"],
                expose_value=False,
                metavar="FILE",
                type=str,
                help="YAML file of options of this command, a line `option: value` for each. What stands on the "
                "command line comes first, environment variables (INFLIGHT_OPTION) last.",
            )
        )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        reading = read_line(_verb(ctx), self.params, args)
        arguments = [word for item in reading.items if item.option == MODEL for word in item.words]
        if len(arguments) > 1 or (arguments and any(item.option == "" for item in reading.items)):
            raise typer.BadParameter("Give the model once: as the argument, or by an option.")
        words = [word for item in reading.items if item.option != MODEL for word in item.words]
        takes_more, ctx.allow_extra_args = ctx.allow_extra_args, True
        try:
            rest = super().parse_args(ctx, [*arguments, *words])
        except typer.BadParameter.__base__ as error:  # type: ignore[misc]
            if asked := getattr(error, "option_name", None) if hasattr(error, "possibilities") else None:
                # Its own, by the alphabet, would follow.
                error.possibilities = None
                error.message = f"No such option: {asked}. {self._hint(ctx, asked)}".strip()
            raise
        if rest and not takes_more and not ctx.resilient_parsing:
            ctx.fail(self._too_many(ctx, rest))
        os.environ.update(reading.environment)
        for note in in_words(reading.notes):
            typer.echo(note, err=True)
        return rest

    def _hint(self, ctx: Any, asked: str) -> str:
        letters = _letters(asked)
        own = {_letters(name) for option in self.params for name in option.opts if name.startswith("--")}
        for argument in self.params:
            known = argument.param_type_name == "argument" and letters in names_of_argument(argument)
            if known and letters not in own:
                return f"{_metavar(argument)} is given without an option: {self._usage(ctx)}"
        options = [[name for name in option.opts if name.startswith("--")] for option in self.params]
        if meant := likely_options(asked, options):
            return f"Did you mean {' or '.join(meant)}?"
        return ""

    def _too_many(self, ctx: Any, words: Sequence[str]) -> str:
        """What to write in place of a line with more words than the command takes."""
        taken = [argument for argument in self.params if argument.param_type_name == "argument"]
        read = {_metavar(argument): ctx.params.get(argument.name) for argument in taken if argument.name}
        known = [f"{word} is {name}" for name, word in read.items() if isinstance(word, str | Path)]
        many = f"One word too many: {words[0]}" if len(words) == 1 else f"Words too many: {' '.join(words)}"
        reading = f" ({', '.join(known)})" if known else ""
        return f"{many}{reading}. Write: {self._usage(ctx)}{self._output(ctx, words)}"

    def _output(self, ctx: Any, words: Sequence[str]) -> str:
        """The option that a last word may have been meant for: `convert MODEL CKPT`."""
        ways = [name for option in self.params if option.name == "output_dir" for name in option.opts]
        absent = ways and not ctx.params.get("output_dir")
        return f"; the directory that is written is {ways[0]} {words[-1]}" if absent else ""

    def _usage(self, ctx: Any) -> str:
        return " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])


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


def _verb(ctx: Any) -> str:
    """The command's name, `bench serve` and the like, however the program was called."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(names)


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())
