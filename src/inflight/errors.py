"""Errors that a user can cause and fix. The command line prints them without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InflightError(Exception):
    """What went wrong, where, and what to do about it.

    `message` says what was wrong and names the file, tensor, flag or request; `hint` says what would work.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n{hint}")
        self.message = message
        self.hint = hint


class ModelError(InflightError):
    """A source model that cannot be read or is not supported."""


class CheckpointError(InflightError):
    """A checkpoint directory that is damaged, incomplete or not supported by the target."""


class BuildError(InflightError):
    """An engine that cannot be built from this checkpoint with this recipe."""


class EngineError(InflightError):
    """An engine directory that is damaged, of another version, or for another machine."""


class OverloadedError(InflightError):
    """A request that finds the queue full; the same request may be served later."""


class RequestError(InflightError):
    """A request that can never be served (too long, contradictory parameters); other requests are unaffected.

    `param`: the parameter whose value is at fault, where it is not what the request is about (its texts).
    """

    def __init__(self, message: str, hint: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message, hint)
        self.param = param


@contextmanager
def placed(place: str | None) -> Iterator[None]:
    """A RequestError in here begins with `place`, where in the request its cause is, unless it is about a parameter
    beside that; None: there is one place alone."""
    try:
        yield
    except RequestError as error:
        if place is None or error.param is not None:
            raise
        raise RequestError(f"{place}: {error.message}", error.hint) from error
