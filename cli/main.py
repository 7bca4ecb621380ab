"""`inflight`: one command, one verb per file of this folder."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import typer

from inflight import __version__
from inflight.errors import InflightError

# Verb -> module of inflight.cli. The order is the order in which a user meets them.
VERBS = {
    "convert": "convert",
    "build-engine": "build_engine",
    "serve": "serve",
    "generate": "generate",
    "chat": "chat",
    "bench": "bench",
    "inspect": "inspect",
    "verify": "verify",
    "make-repo": "make_repo",
    "check-repo": "check_repo",
    "doctor": "doctor",
}

EPILOG = "Start here:  inflight serve MODEL   (converts, builds, serves)  ·  every verb explains itself with --help"


def _version(value: bool) -> None:
    if value:
        print(f"inflight {__version__}")
        raise typer.Exit


def build_app(verbs: Iterable[str] = VERBS) -> typer.Typer:
    """The application with these verbs; a verb's module is imported only when it is among them."""
    app = typer.Typer(
        name="inflight",
        help="Compile a language model ahead of time into an engine, and serve it.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    ) -> None:
        pass

    for verb in verbs:
        module = importlib.import_module(f"inflight.cli.{VERBS[verb]}")
        command = getattr(module, verb.replace("-", "_"))
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=verb)
        else:
            app.command(verb, no_args_is_help=verb != "doctor")(command)
    return app


def main() -> None:
    """Run the command line. A user's mistake ends with one message and exit code 1 (usage: 2), never a traceback."""
    # Looking for plugins of pydantic among the installed packages takes longer than reading a manifest.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        asked = sys.argv[1:2]
        build_app(asked if asked and asked[0] in VERBS else VERBS)()
    except InflightError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted; nothing was left half-written.", 130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        where = f" ({Path(error.filename)})" if error.filename else ""
        _fail(
            f"{error.strerror}{where}. Free some space or choose another directory; nothing was left half-written.", 1
        )


def _fail(message: str, code: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    # A message may name a list or an extra in brackets, which are markup to rich.
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)
