"""What runs launches: a GPU, or an interpreter in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


class PackedLaunch(Protocol):
    """A launch whose arguments are known but for some numbers."""

    def launch(self, sizes: Mapping[str, int]) -> None:
        """`sizes`: those numbers by their names, and what the grid needs. A grid of no blocks is no launch."""
        ...


class Recorded(Protocol):
    """Launches that were recorded with their numbers."""

    def launch(self) -> None:
        """All of them, in order."""
        ...


class Backend(Protocol):
    """Memory by its address, and kernels by their place in the engine's list. Calls are carried out in order, behind
    the caller's back: what was read is there after `wait`, or after `wait_for` what was marked behind the reading.
    """

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> int:
        """The address of so many bytes, a multiple of 256. Raises EngineError when there are not that many."""
        ...

    def host(self, nbytes: int) -> Array:
        """uint8 [nbytes] of this machine's memory, for arrays that are written from and read into while the caller goes
        on. Raises as allocate()."""
        ...

    def write(self, address: int, array: Array) -> None:
        """Copy a contiguous array there; it may be reused after a wait, if it is of `host`, else at once."""
        ...

    def read(self, address: int, array: Array) -> None:
        """Fill a contiguous array from there."""
        ...

    def constant(self, kernel: int, name: str) -> int:
        """An integer constant with which a kernel was compiled."""
        ...

    def pack(self, kernel: int, arguments: Mapping[str, int], numbers: Mapping[str, str]) -> PackedLaunch:
        """Addresses and numbers by the names of the kernel's arguments; `numbers`: those of which only the name is
        known by which `launch` gets them."""
        ...

    def record(self, queue: Callable[[], None]) -> Recorded:
        """What `queue` launches, as one; it is not run."""
        ...

    def mark(self) -> Any:
        """All that was asked for up to here, for `wait_for`."""
        ...

    def wait_for(self, mark: Any) -> None:
        """Until all before `mark` has been done. A mark is waited for once."""
        ...

    def wait(self) -> None:
        """Until all that was asked for has been done."""
        ...

    def close(self) -> None:
        """Free everything, also after a failure. Calling it twice is harmless."""
        ...
