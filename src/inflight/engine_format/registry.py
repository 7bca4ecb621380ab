"""Things that are found by name: the project's own, and those that other packages register as entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from inflight.errors import InflightError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind = TypeVar("Kind")


class Registry(Generic[Kind]):
    """`own` makes the project's things by name; packages outside add theirs as entry points of `group`, whose values
    are objects of type `kind`. `noun` is what messages call such a thing.

    Nothing is imported before it is asked for, and installed packages are only looked through for a name that is not
    the project's.
    """

    def __init__(self, noun: str, group: str, kind: type[Kind], own: Mapping[str, Callable[[], Kind]]) -> None:
        self._noun, self._group, self._kind, self._own = noun, group, kind, own

    def find(self, name: str) -> Kind:
        """Raises InflightError where nothing of that name is registered, naming what is, or it cannot be loaded."""
        if name in self._own:
            return self._own[name]()
        found = [entry for entry in self._entry_points() if entry.name == name]
        if not found:
            raise InflightError(
                f"There is no {self._noun} {name}.",
                f"Registered are {', '.join(self.names())}. A package adds its own as an entry point of {self._group}.",
            )
        if len(found) > 1:
            owners = ", ".join(map(_owner, found))
            raise InflightError(f"The {self._noun} {name} is registered more than once: {owners}.", "Uninstall one.")
        return self._load(found[0])

    def names(self) -> list[str]:
        """The project's own first."""
        return [*self._own, *sorted({entry.name for entry in self._entry_points()} - self._own.keys())]

    def all(self) -> dict[str, Kind | InflightError]:
        """Everything by name; for what cannot be loaded, the reason."""
        found: dict[str, Kind | InflightError] = {}
        for name in self.names():
            try:
                found[name] = self.find(name)
            except InflightError as error:
                found[name] = error
        return found

    def _entry_points(self) -> tuple[EntryPoint, ...]:
        from importlib.metadata import entry_points

        return tuple(entry_points(group=self._group))

    def _load(self, entry: EntryPoint) -> Kind:
        what = f"The {self._noun} {entry.name} of {_owner(entry)}"
        try:
            thing = entry.load()
        except Exception as error:  # whatever a package of others raises while it is imported
            raise InflightError(f"{what} cannot be loaded: {type(error).__name__}: {error}.") from error
        if not isinstance(thing, self._kind):
            raise InflightError(f"{what} is no {self._kind.__qualname__}: {entry.value} is {type(thing).__name__}.")
        return thing


def _owner(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
