"""Progress bars: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

    console: Console


def __getattr__(name: str) -> Any:
    """`console`, made when it is first asked for: importing rich takes longer than many a command."""
    if name != "console":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _console()


@cache
def _console() -> Console:
    """Messages and progress go to stderr, so that stdout can be piped."""
    from rich.console import Console

    return Console(stderr=True)


class Advance(Protocol):
    """Report work done: `advance(amount, label)`; `label` replaces the text beside the bar."""

    def __call__(self, amount: float, label: str | None = None) -> None: ...


@contextmanager
def progress_bar(title: str, total: float, *, enabled: bool = True) -> Iterator[Advance]:
    """A bar titled `title` of `total` units."""
    if not enabled or not sys.stderr.isatty():
        yield _ignore
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(), transient=True) as bar:
        task = bar.add_task(title, total=total)

        def advance(amount: float, label: str | None = None) -> None:
            bar.update(task, advance=amount, description=title if label is None else f"{title}: {label}")

        yield advance


def _ignore(amount: float, label: str | None = None) -> None:
    """Default: does nothing."""
