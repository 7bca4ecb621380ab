"""Where blocks that leave the KV cache are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inflight.errors import EngineError

DEFAULT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class KvOffload:
    """A directory, which belongs to one process at a time, and the most bytes that its files may take; None: memory of
    this process, and the most bytes of that.

    Raises EngineError for less than one byte.
    """

    directory: Path | None
    bytes: int = DEFAULT_BYTES

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise EngineError(f"Offloaded KV cache blocks may take {self.bytes} bytes; it must be at least 1.")

    @classmethod
    def of(cls, directory: str | Path | None, most_bytes: int | None) -> KvOffload | None:
        """From two options: a limit without a directory is one of memory. None: nothing is kept."""
        if directory is None:
            return None if most_bytes is None else cls(None, most_bytes)
        path = Path(directory).expanduser().absolute()
        return cls(path) if most_bytes is None else cls(path, most_bytes)
