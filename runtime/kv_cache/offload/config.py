"""Where blocks that leave the KV cache are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inflight.errors import EngineError

DEFAULT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class KvOffload:
    """A directory, which belongs to one process at a time, and the most bytes that its files may take.

    Raises EngineError for less than one byte.
    """

    directory: Path
    bytes: int = DEFAULT_BYTES

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise EngineError(
                f"The files of offloaded KV cache blocks may take {self.bytes} bytes; it must be at least 1."
            )

    @classmethod
    def of(cls, directory: str | Path | None, most_bytes: int | None) -> KvOffload | None:
        """From two options; None: nothing is kept. Raises EngineError for a limit without a directory."""
        if directory is None:
            if most_bytes is not None:
                raise EngineError(
                    "kv_offload_bytes is given and kv_offload_dir is not.",
                    "Say in which directory blocks are kept: --kv-offload-dir.",
                )
            return None
        path = Path(directory).expanduser().absolute()
        return cls(path) if most_bytes is None else cls(path, most_bytes)
