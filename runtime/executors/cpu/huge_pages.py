"""Pieces of a mapped file that the system keeps in small pages, brought into huge ones.

A product of one row reads weights as fast as memory gives them only if it seldom waits for the translation of an
address: of a file in pages of 4 KiB it reads a seventh to a third less. The system keeps what was written or read in
one piece of 2 MiB in one huge page if it finds one that is free at that moment, and keeps it so until it needs the
memory. What it had to keep in small pages is dropped here and read from disk again, a piece at a time.

Linux from 6.7 says which pieces these are (PAGEMAP_SCAN); on others nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import time
from collections.abc import Callable

HUGE_PAGE = 1 << 21
MADV_POPULATE_READ = 22  # Linux 5.14; others refuse it
_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_HUGE = 1 << 6
_REGIONS = 512
# A disk that is slower than 100 MB/s over the first pieces would hold up the steps that wait for it; memory in which 8
# pieces in a row find no huge page has none for the others either.
_PIECE_S = 0.02
_GRACE_S = 0.5
_FRUITLESS = 8
_TURNS = 6
_BETWEEN_TURNS_S = 0.01


class _Scan(ctypes.Structure):
    """struct pm_scan_arg of linux/fs.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    ]


class _PageRegion(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("start", "end", "categories")]


def huge_bytes(address: int, size: int) -> int:
    """How many of the bytes are mapped in huge pages. Raises OSError where the system does not say."""
    found = (_PageRegion * _REGIONS)()
    total, start, end = 0, address, address + size
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        while start < end:
            scan = _Scan(
                size=ctypes.sizeof(_Scan),
                start=start,
                end=end,
                vec=ctypes.addressof(found),
                vec_len=_REGIONS,
                category_mask=_PAGE_IS_HUGE,
                return_mask=_PAGE_IS_HUGE,
            )
            count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, scan)
            total += sum(found[i].end - found[i].start for i in range(count))
            start = scan.walk_end
    return total


def use_huge_pages(address: int, start: int, end: int, file: int, advise: Callable[[int, int], bool]) -> None:
    """Read the whole pieces of [start, end) of `file` again that are mapped at `address` in small pages.

    `advise(offset, advice)` is madvise of the piece at `offset`, and says whether to go on. Who reads a piece meanwhile
    waits for the disk.
    """
    if mmap.PAGESIZE != 4096 or address % HUGE_PAGE or not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):
        pieces = range(-(-start // HUGE_PAGE) * HUGE_PAGE, end - HUGE_PAGE + 1, HUGE_PAGE)
        small = [at for at in pieces if huge_bytes(address + at, HUGE_PAGE) < HUGE_PAGE]
        if not small:
            return
        os.fsync(file)  # the system drops nothing that it has not written yet
        began, tried = time.monotonic(), 0
        # A piece that is read between the two calls that drop it stays; it has its turn again.
        for _ in range(_TURNS):
            small, fruitless = [at for at in small if huge_bytes(address + at, HUGE_PAGE) < HUGE_PAGE], 0
            if not small:
                return
            for at in small:
                advise(at, mmap.MADV_DONTNEED)  # the system drops nothing that is mapped either
                os.posix_fadvise(file, at, HUGE_PAGE, os.POSIX_FADV_DONTNEED)
                tried += 1
                slow = time.monotonic() - began > _GRACE_S + tried * _PIECE_S
                if not advise(at, MADV_POPULATE_READ) or slow:
                    return
                fruitless = 0 if huge_bytes(address + at, HUGE_PAGE) else fruitless + 1
                if fruitless == _FRUITLESS:
                    return
            time.sleep(_BETWEEN_TURNS_S)
