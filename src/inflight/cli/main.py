"""`inflight`: the command line; one file of this folder per command.

Whatever takes time to import is imported inside `main`, so that an interrupt finds it in charge at once.
"""

from __future__ import annotations

import atexit
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING

from inflight import __version__
from inflight.errors import InflightError
from inflight.extras import install_hint, needs

if TYPE_CHECKING:
    import typer

# Verb -> module of inflight.cli, in the order of --help.
VERBS = {
    "convert": "convert",
    "build-engine": "build_engine.command",
    "export": "build_engine.export",
    "serve": "serve",
    "generate": "offline.generate",
    "chat": "offline.chat",
    "run-batch": "offline.run_batch",
    "detect-watermark": "offline.detect_watermark",
    "bench": "bench.app",
    "inspect": "inspect",
    "verify": "verify.command",
    "eval": "eval.command",
    "make-repo": "repository.make",
    "check-repo": "repository.check",
    "doctor": "doctor",
}

# What a verb needs beside the base install.
_EXTRAS = {
    "convert": "build",
    "build-engine": "build",
    "export": "build",
    "serve": "serve",
    "run-batch": "serve",
    "bench": "bench",
    "inspect": "build",
    "verify": "build",
    "eval": "build",
    "make-repo": "serve",
    "check-repo": "serve",
}

_MORE_SPACE = "Free some space or choose another directory; nothing was left half-written."
_OTHER_PLACE = "Choose another directory, or change what may be done in that one; nothing was left half-written."
_HINTS = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: _MORE_SPACE,
    errno.EACCES: _OTHER_PLACE,
    errno.EPERM: _OTHER_PLACE,
    errno.EROFS: _OTHER_PLACE,
}

EPILOG = "Start here: inflight serve MODEL (converts, builds and serves). Help for a command: inflight COMMAND --help"


def _version(value: bool) -> None:
    if value:
        import typer

        print(f"inflight {__version__}")
        raise typer.Exit


def build_app(verbs: Iterable[str] = VERBS) -> typer.Typer:
    """The application with these verbs; a verb's module is imported only when it is among them."""
    import typer

    from inflight.cli.options.near_misses import Command, Group

    app = typer.Typer(
        name="inflight",
        cls=Group,
        help="Compile a language model ahead of time into an engine; serve it with continuous (in-flight) batching.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ) -> None:
        pass

    for verb in verbs:
        module = importlib.import_module(f"inflight.cli.{VERBS[verb]}")
        command = getattr(module, verb.replace("-", "_"))
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=verb)
        else:
            settings = getattr(module, "CONTEXT_SETTINGS", None)
            app.command(verb, cls=Command, no_args_is_help=verb != "doctor", context_settings=settings)(command)
    return app


def main() -> None:
    """Run the command line. A user's mistake ends with one message and exit code 1 (usage: 2), never a traceback."""
    try:
        _prepare_process()
        asked = [verb for verb in sys.argv[1:2] if verb in VERBS]
        verb = "".join(asked)
        with needs(f"inflight {verb}", install_hint(_EXTRAS.get(verb, "all"))):
            build_app(asked or VERBS)()
    except InflightError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except MemoryError:
        _fail("There is not enough memory.", 1)
    except OSError as error:
        if error.filename is None and error.errno not in _HINTS:
            raise
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        hint = _HINTS.get(error.errno or 0)
        _fail(f"{where}{error.strerror}." + (f"\n{hint}" if hint else ""), 1)
    finally:
        # All is done: an interrupt while the interpreter ends has nothing to unwind, and a traceback to show.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)


def _prepare_process() -> None:
    """On termination signals, unwind first, so that no half-written file and no child process is left. Characters that
    the terminal's encoding lacks become question marks.

    A signal that is ignored stays so: `nohup` means it.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _fail(message: str, code: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    # A message may name a list or an extra in brackets, which are markup to rich.
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)
