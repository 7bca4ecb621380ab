"""Progress bars: shown on a terminal, silent elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Everything a person reads beside the result goes to stderr, so that stdout can be piped.
console = Console(stderr=True)


class Advance(Protocol):
    """Report work done: `advance(amount, label)`; `label` replaces the text beside the bar."""

    def __call__(self, amount: float, label: str | None = None) -> None: ...


@contextmanager
def progress_bar(title: str, total: float, *, enabled: bool = True) -> Iterator[Advance]:
    """A bar titled `title` of `total` units."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not enabled or not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def advance(amount: float, label: str | None = None) -> None:
            bar.update(task, advance=amount, description=title if label is None else f"{title}: {label}")

        yield advance
