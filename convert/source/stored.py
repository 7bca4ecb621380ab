"""Reading parts of the tensors of a safetensors file: rows, or columns of a matrix, and nothing beyond them.

Files are read and not mapped: one that was cut off meanwhile is an error with its name, where a mapping would end the
process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError
from inflight.files.tensor_file import TensorEntry, tensor_bytes

Array = npt.NDArray[Any]
_CHANGED = "It changed during the conversion: convert again when it is complete."


def read_rows(entry: TensorEntry, start: int = 0, stop: int | None = None) -> Array:
    """Rows start .. stop (None: to the last one) of a tensor, in its stored type. Raises ModelError naming it."""
    stop = entry.shape[0] if stop is None else stop
    rows = np.empty((max(0, stop - start), *entry.shape[1:]), numpy_dtype(entry.dtype))
    with _opened(entry.file, entry.name) as file:
        file.seek(entry.offset + start * tensor_bytes(entry.shape[1:], entry.dtype))
        _fill(file, rows, entry.name)
    return rows


def read_all(entry: TensorEntry) -> Array:
    """A whole tensor of any shape, in its stored type. Raises ModelError naming it."""
    found = np.empty(entry.shape, numpy_dtype(entry.dtype))
    with _opened(entry.file, entry.name) as file:
        file.seek(entry.offset)
        _fill(file, found, entry.name)
    return found


def read_columns(entry: TensorEntry, start: int, stop: int) -> Array:
    """Columns start .. stop of a matrix, in its stored type. Raises ModelError naming it."""
    if (start, stop) == (0, entry.shape[1]):
        return read_rows(entry)
    width = numpy_dtype(entry.dtype).itemsize
    columns = np.empty((entry.shape[0], stop - start), numpy_dtype(entry.dtype))
    with _opened(entry.file, entry.name) as file:
        for row in range(entry.shape[0]):
            file.seek(entry.offset + (row * entry.shape[1] + start) * width)
            _fill(file, columns[row], entry.name)
    return columns


def read_bytes(file: Path, name: str, offset: int, count: int) -> Array:
    """`count` bytes of a file from `offset` on, which belong to the tensor `name`. Raises ModelError naming both."""
    found = np.empty(count, np.uint8)
    with _opened(file, name) as opened:
        opened.seek(offset)
        _fill(opened, found, name)
    return found


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ModelError(f"{path}: tensor {name} cannot be read: {error.strerror}.") from error


def _fill(file: BinaryIO, rows: Array, name: str) -> None:
    # numpy's own buffers do not know bfloat16.
    buffer = rows.reshape(-1).view(np.uint8).data
    while buffer.nbytes:
        count = file.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            raise ModelError(f"{file.name}: the file ended inside tensor {name}.", _CHANGED)
        buffer = buffer[count:]
