"""What runs launches: a GPU, or an interpreter in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


class Backend(Protocol):
    """Memory by its address, and kernels by their place in the engine's list. Calls are carried out in order; what was
    read is there after `wait`.
    """

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> int:
        """The address of so many bytes, a multiple of 256. Raises EngineError when there are not that many."""
        ...

    def write(self, address: int, array: Array) -> None:
        """Copy a contiguous array there; it may be reused after `wait`."""
        ...

    def read(self, address: int, array: Array) -> None:
        """Fill a contiguous array from there."""
        ...

    def constant(self, kernel: int, name: str) -> int:
        """An integer constant with which a kernel was compiled."""
        ...

    def launch(self, kernel: int, arguments: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        """One launch: addresses and numbers by the names of the kernel's arguments, `sizes` for the grid."""
        ...

    def wait(self) -> None:
        """Until all that was asked for has been done."""
        ...

    def close(self) -> None:
        """Free everything. Calling it twice is harmless."""
        ...
