"""Memory of the CPU executor: the mapped weights and large zeroed regions."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

from inflight.errors import EngineError

_MADV_POPULATE_READ = 22  # Linux 5.14; others refuse it
_POPULATED_AT_ONCE = 1 << 24
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,  # off_t
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Region:
    """A page-aligned mapping of `size` bytes. `address` is valid until close(). Raises OSError when it is refused."""

    def __init__(self, size: int, protection: int, flags: int, file: int = -1) -> None:
        address = _libc.mmap(None, size, protection, flags, file, 0)
        if address is None or address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.address: int = address
        self._size = size
        self._populating: threading.Thread | None = None
        self._closing = False

    def advise(self, advice: int) -> None:
        """A hint to the kernel, which may ignore it."""
        _libc.madvise(self.address, self._size, advice)

    def populate(self) -> None:
        """Map every page now, on a thread of its own: faults one by one, in the first step, cost more than that."""
        self._populating = threading.Thread(target=self._populate, name="inflight-populate", daemon=True)
        self._populating.start()

    def close(self) -> None:
        self._closing = True
        if self._populating is not None:
            self._populating.join()
        if self._size:
            _libc.munmap(self.address, self._size)
            self._size = 0

    def _populate(self) -> None:
        for start in range(0, self._size, _POPULATED_AT_ONCE):
            size = min(_POPULATED_AT_ONCE, self._size - start)
            if self._closing or _libc.madvise(self.address + start, size, _MADV_POPULATE_READ):
                return


def map_file(path: Path) -> Region:
    """Map a file read-only; its pages are shared with every process that maps it, and read ahead."""
    with path.open("rb") as file:
        region = Region(os.fstat(file.fileno()).st_size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno())
    region.advise(mmap.MADV_WILLNEED)
    return region


def map_zeroed(size: int, purpose: str) -> Region:
    """Reserve `size` zeroed bytes, in huge pages where the system has them. Pages are taken when first touched.

    Raises EngineError, naming `purpose`, when the system refuses.
    """
    try:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        region = Region(max(size, mmap.PAGESIZE), protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise EngineError(
            f"The system refused {size:,} bytes for the {purpose}: {error}.",
            "Give the KV cache fewer tokens or bytes, or end other processes.",
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.advise(mmap.MADV_HUGEPAGE)
    return region
