"""The safetensors container: an 8-byte header length, a JSON header, then the data without holes.

Only the header is parsed here, so that a file of any size can be described without reading it. The safetensors
package serves those who want whole tensors: it says nothing of where they lie, and writes no file chunk by chunk.
"""

from __future__ import annotations

import json
import math
import operator
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.dtypes import DTYPES, by_safetensors, numpy_dtype
from inflight.errors import InflightError
from inflight.files.json_file import JsonError, parse_json
from inflight.files.stand_in import START_BYTES, refuse_stand_in

ALIGNMENT = 64
_MAX_HEADER_BYTES = 100_000_000


class TensorFileError(InflightError):
    """A safetensors file that is truncated, corrupt or of an unknown type."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: `offset` is in bytes from the start of `file`, `dtype` a numpy name ("bfloat16")."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * numpy_dtype(dtype).itemsize


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file in the order of their data. Raises TensorFileError naming the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                refuse_stand_in(path, prefix + file.read(START_BYTES), TensorFileError)
                raise TensorFileError(f"{path} is not a safetensors file, or it is cut short ({size} bytes).", _RENEW)
            header = parse_json(file.read(length))
    except OSError as error:
        raise TensorFileError(f"{path} cannot be read: {error.strerror}.") from error
    except JsonError as error:
        raise TensorFileError(f"{path}: the safetensors header is not valid JSON: {error}.", _RENEW) from error
    if not isinstance(header, dict):
        raise TensorFileError(f"{path}: the safetensors header is not a JSON object.", _RENEW)
    header.pop("__metadata__", None)
    entries = sorted((_entry(path, name, fields, 8 + length) for name, fields in header.items()), key=_position)
    _check_coverage(path, entries, 8 + length, size)
    return {entry.name: entry for entry in entries}


_RENEW = "Download or write the file again."


def _position(entry: TensorEntry) -> tuple[int, int]:
    return entry.offset, entry.nbytes


def _entry(path: Path, name: str, fields: Any, data_start: int) -> TensorEntry:
    try:
        code, shape = fields["dtype"], tuple(operator.index(size) for size in fields["shape"])
        start, end = map(operator.index, fields["data_offsets"])
        nbytes = end - start
    except (KeyError, TypeError, ValueError) as error:
        raise TensorFileError(f"{path}: tensor {name} has a malformed entry in the header.", _RENEW) from error
    dtype = by_safetensors(code) if isinstance(code, str) else None
    if dtype is None:
        raise TensorFileError(f"{path}: tensor {name} has type {code}, which is not supported.")
    if min(shape, default=0) < 0 or nbytes != math.prod(shape) * dtype.bits // 8:
        raise TensorFileError(f"{path}: tensor {name} ({code}, shape {shape}) cannot occupy {nbytes} bytes.", _RENEW)
    return TensorEntry(name, path, dtype.name, shape, data_start + start, nbytes)


def _check_coverage(path: Path, entries: list[TensorEntry], data_start: int, size: int) -> None:
    """The data must be exactly the tensors, end to end: a hole or an overlap means that the header is wrong."""
    expected = data_start
    for entry in entries:
        if entry.offset != expected:
            raise TensorFileError(f"{path}: tensor {entry.name} does not begin where the one before it ends.", _RENEW)
        expected += entry.nbytes
    if size < expected:
        cut = next(entry.name for entry in entries if entry.offset + entry.nbytes > size)
        raise TensorFileError(
            f"{path} is truncated: {size} bytes of {expected}, inside or before tensor {cut}.", _RENEW
        )
    if size > expected:
        raise TensorFileError(f"{path} has {size - expected} bytes after the last tensor.", _RENEW)


def encode_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Header bytes (length prefix included) of a file that holds `tensors` (name -> dtype, shape) in this order.

    The header is padded with spaces, so that the data begins at a multiple of 64 bytes; tensors of a multiple of
    64 bytes that come first are then aligned for vector loads straight from the mapped file.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + tensor_bytes(shape, dtype)
        header[name] = {"dtype": DTYPES[dtype].safetensors, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def map_array(entry: TensorEntry) -> npt.NDArray[Any]:
    """The tensor as a read-only memory-mapped array; pages are read when they are touched."""
    if entry.nbytes == 0:
        return np.zeros(entry.shape, numpy_dtype(entry.dtype))
    flat = np.memmap(entry.file, dtype=numpy_dtype(entry.dtype), mode="r", offset=entry.offset, shape=entry.shape)
    return flat.view(np.ndarray)
