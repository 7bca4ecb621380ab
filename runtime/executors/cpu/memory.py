"""Memory of the CPU executor: the mapped weights and large zeroed regions."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

from inflight.errors import EngineError
from inflight.runtime.executors.cpu.huge_pages import HUGE_PAGE, MADV_POPULATE_READ, use_huge_pages

# A process that ends sooner does not wait for the disk.
_HUGE_PAGES_AFTER_S = 1.0
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
    """A page-aligned mapping of `size` bytes, of `file` (a descriptor) if it is not -1.

    `address` and `file`, which the region takes over, are valid until close(). Raises OSError when it is refused.
    """

    def __init__(self, size: int, protection: int, flags: int, file: int = -1) -> None:
        address = _libc.mmap(None, size, protection, flags, file, 0)
        if address is None or address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.address: int = address
        self.file = file
        self._size = size
        self._populating: threading.Thread | None = None
        self._closing = threading.Event()

    def advise(self, advice: int) -> None:
        """Give the kernel a hint, which it may ignore."""
        _libc.madvise(self.address, self._size, advice)

    def populate(self, start: int = 0) -> None:
        """Prefetch all pages from `start` on, on a thread: page faults in the first step would cost more. Then bring
        them into huge pages."""
        if self._populating is None:
            self._populating = threading.Thread(
                target=self._populate, args=(start,), name="inflight-populate", daemon=True
            )
            self._populating.start()

    def settle(self) -> None:
        """Wait until what populate() began is done."""
        if self._populating is not None:
            self._populating.join()

    def close(self) -> None:
        self._closing.set()
        self.settle()
        if self._size:
            _libc.munmap(self.address, self._size)
            self._size = 0
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def _populate(self, start: int) -> None:
        start = max(0, start - start % HUGE_PAGE)
        # What is not in memory yet is then read in huge pages. Asking for all of it first would read it in small ones.
        if hasattr(mmap, "MADV_HUGEPAGE"):
            _libc.madvise(self.address + start, self._size - start, mmap.MADV_HUGEPAGE)
        # Other mappings of the process wait until a piece is done.
        for offset in range(start, self._size, HUGE_PAGE):
            if self._closing.is_set():
                return
            size = min(HUGE_PAGE, self._size - offset)
            if _libc.madvise(self.address + offset, size, MADV_POPULATE_READ):
                _libc.madvise(self.address + offset, self._size - offset, mmap.MADV_WILLNEED)
                return
        if not self._closing.wait(_HUGE_PAGES_AFTER_S):
            use_huge_pages(self.address, start, self._size, self.file, self._advise_piece)

    def _advise_piece(self, offset: int, advice: int) -> bool:
        refused = _libc.madvise(self.address + offset, HUGE_PAGE, advice)
        return not refused and not self._closing.is_set()


_ahead: dict[tuple[int, ...], Region] = {}


def map_ahead(path: Path, start: int) -> None:
    """Begin to map and populate a file that map_file will map later. Errors are left to map_file."""
    try:
        region = map_file(path)
    except OSError:
        return
    region.populate(start)
    _ahead[_identity(os.fstat(region.file))] = region


def map_file(path: Path) -> Region:
    """Map a file read-only; its pages are shared with every process that maps it."""
    file = os.open(path, os.O_RDONLY)
    state = os.fstat(file)
    try:
        if (begun := _ahead.pop(_identity(state), None)) is None:
            return Region(state.st_size, mmap.PROT_READ, mmap.MAP_SHARED, file)
    except OSError:
        os.close(file)
        raise
    os.close(file)
    return begun


def _identity(state: os.stat_result) -> tuple[int, ...]:
    """Identifies the current contents of the file."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


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
