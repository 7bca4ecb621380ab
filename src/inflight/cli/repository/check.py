"""`inflight check-repo`: checks a Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check_repo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the Triton model repository.")],
) -> None:
    """Check a Triton model repository before starting a server on it. Each problem names the file, the key and the fix.

    Examples:

      inflight check-repo models
    """
    from inflight.triton_backend.launch.repository_check import check_repository

    problems = check_repository(directory)
    for problem in problems:
        typer.echo(str(problem), err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{directory}: nothing is wrong.")
