"""What an optional part of the project needs: a missing module is named with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inflight.errors import InflightError


class MissingModuleError(InflightError):
    """A module that is not installed, and how to install it."""


def install_hint(extra: str) -> str:
    return f"pip install 'inflight-llm[{extra}]'"


@contextmanager
def needs(what: str, install: str) -> Iterator[None]:
    """Around the imports of an optional part. A module that is missing becomes a MissingModuleError that says which,
    that `what` needs it, and `install`: the command that installs it. Modules of the project itself are no matter of
    installing, so their absence stays what it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "inflight":
            raise
        raise MissingModuleError(f"{what} needs the module {error.name}, which is not installed.", install) from error
