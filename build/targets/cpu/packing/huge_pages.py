"""A file written so that the system can keep it in huge pages."""

from __future__ import annotations

from typing import BinaryIO

HUGE_PAGE = 1 << 21


class HugePageWriter:
    """Writes a new file in aligned pieces of 2 MiB; finish() writes what is left.

    Linux keeps what is written at once in one piece of its page cache (ext4 since 6.16, XFS), and maps such a piece as
    one huge page: reading weights then seldom waits for the translation of an address, and mapping them takes
    hundreds of page faults in place of hundreds of thousands.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._piece = bytearray()
        self._written = 0

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        self._written += len(rest)
        while rest:
            taken = rest[: HUGE_PAGE - len(self._piece)]
            self._piece += taken
            rest = rest[len(taken) :]
            if len(self._piece) == HUGE_PAGE:
                self.finish()

    def pad_to(self, offset: int) -> None:
        """Zeros up to `offset`, which must not lie before what is written."""
        self.write(bytes(offset - self._written))

    def finish(self) -> None:
        self._file.write(self._piece)
        self._piece = bytearray()
