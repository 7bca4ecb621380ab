"""Arrays in a file of NumPy's own format, one behind the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from inflight.errors import InflightError
from inflight.files.full_disk import naming_a_full_disk

Array = npt.NDArray[Any]


class DamagedFile(InflightError):
    """A file that does not hold the arrays that were written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged.", f"Delete {path.parent}, and give the command again.")


class _Writer:
    """What numpy.save writes to by Python: to a file it writes by C calls, whose errors do not tell a full disk."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def write_arrays(path: Path, arrays: Sequence[npt.ArrayLike]) -> None:
    """Write them; the file appears whole or not at all. Raises OSError, which names the folder of a full disk."""
    scratch = path.with_name(f"{path.name}.partial")
    with naming_a_full_disk(path.parent):
        try:
            with scratch.open("wb") as file:
                for array in arrays:
                    np.save(_Writer(file), array)
            os.replace(scratch, path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise


def read_arrays(path: Path) -> list[Array]:
    """All of a file. Raises DamagedFile."""
    found: list[Array] = []
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while file.tell() < size or not found:
                found.append(np.load(file))
    except (ValueError, EOFError) as error:
        raise DamagedFile(path) from error
    return found


def mapped_array(path: Path) -> Array:
    """The only array of a file, mapped. Raises DamagedFile."""
    try:
        found: Array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise DamagedFile(path) from error
    return found
