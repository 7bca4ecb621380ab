"""Memory of the CPU executor: the mapped weights and large zeroed regions."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from inflight.errors import EngineError

_PAGE = mmap.PAGESIZE


class Region:
    """A page-aligned mapping. `address` is valid until close()."""

    def __init__(self, mapping: mmap.mmap, address: int) -> None:
        self.address = address
        self._mapping: mmap.mmap | None = mapping

    def close(self) -> None:
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None


def map_file(path: Path) -> Region:
    """Map a file read-only; its pages are shared with every process that maps it, and read ahead."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapping.madvise(mmap.MADV_WILLNEED)
    return Region(mapping, _address(mapping))


def map_zeroed(size: int, purpose: str) -> Region:
    """Reserve `size` zeroed bytes, in huge pages where the system has them. Pages are taken when first touched.

    Raises EngineError, naming `purpose`, when the system refuses.
    """
    try:
        mapping = mmap.mmap(-1, max(size, _PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"The system refused {size:,} bytes for the {purpose}: {error}.",
            "Give the KV cache fewer tokens or bytes, or end other processes.",
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return Region(mapping, _address(mapping))


def _address(mapping: mmap.mmap) -> int:
    # The array dies here, so that it does not keep the mapping from closing.
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)
