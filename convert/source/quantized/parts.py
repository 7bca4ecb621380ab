"""The stored tensors of a quantized source, each taken by the tensor of the model that it is a part of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from inflight.convert.source.tensor import PlainTensor, SourceTensor
from inflight.files.tensor_file import TensorEntry

_SHOWN = 20


def part_of(entry: TensorEntry, index: int, shape: tuple[int, ...]) -> TensorEntry:
    """What lies at a place of the first axis, seen in this shape."""
    size = entry.nbytes // max(1, entry.shape[0])
    return replace(entry, shape=shape, offset=entry.offset + index * size, nbytes=size)


class Parts:
    """What the files hold. What is missing or misshapen is noted in `problems`; what nobody takes stays plain."""

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._entries = dict(entries)
        self._taken: set[str] = set()
        self.problems: list[str] = []

    def modules(self, ending: str) -> list[str]:
        """Modules that have a tensor of this name, in the order of the files."""
        ending = f".{ending}"
        return [name.removesuffix(ending) for name in self._entries if name.endswith(ending)]

    def weights(self, dtypes: tuple[str, ...]) -> list[tuple[str, TensorEntry]]:
        """(module, weight) of every weight of these types, in the order of the files; they count as taken."""
        found = [
            (name.removesuffix(".weight"), entry)
            for name, entry in self._entries.items()
            if name.endswith(".weight") and entry.dtype in dtypes
        ]
        self._taken |= {entry.name for _, entry in found}
        return found

    def has(self, module: str, name: str) -> bool:
        return f"{module}.{name}" in self._entries

    def entry(self, module: str, name: str) -> TensorEntry:
        """A part that is there, and stays untaken."""
        return self._entries[f"{module}.{name}"]

    def find(self, module: str, name: str) -> TensorEntry | None:
        """A part that need not be there."""
        full = f"{module}.{name}"
        self._taken.add(full)
        return self._entries.get(full)

    def take(
        self, module: str, name: str, shapes: Iterable[tuple[int, ...]] = (), dtypes: tuple[str, ...] = ()
    ) -> TensorEntry | None:
        """A part that must be there, of one of these shapes and types (none given: any); None when it is not, with a
        note."""
        entry = self.find(module, name)
        allowed = list(shapes)
        if entry is None:
            self.problems.append(f"missing tensor: {module}.{name}")
        elif (allowed and entry.shape not in allowed) or (dtypes and entry.dtype not in dtypes):
            wanted = " or ".join(dict.fromkeys(map(str, allowed))) or "any shape"
            self.problems.append(
                f"misshapen tensor: {entry.name} is {entry.dtype} {entry.shape}, "
                f"{' or '.join(dtypes) or 'any type'} {wanted} was expected"
            )
            return None
        return entry

    def leave_out(self, endings: tuple[str, ...]) -> None:
        """Tensors that say nothing of weights: scales of activations and caches."""
        self._taken |= {name for name in self._entries if name.endswith(endings)}

    def plain(self) -> dict[str, SourceTensor]:
        """Every tensor that is no part of another."""
        return {name: PlainTensor(entry) for name, entry in self._entries.items() if name not in self._taken}

    def listed_problems(self) -> list[str]:
        more = len(self.problems) - _SHOWN
        return [*self.problems[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
