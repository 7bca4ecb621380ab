"""The header of a GGUF file (llama.cpp's format, versions 2 and 3): metadata and the table of tensors.

The gguf package parses headers as well, making five arrays for each token of a vocabulary (seconds and 150 MB for
49,000 of them), and reads past the end of a damaged file. Of it, only tables of types and arithmetic serve here.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from inflight.errors import ModelError
from inflight.files.stand_in import START_BYTES, refuse_stand_in

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
# Code of a metadata value -> how struct reads it; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_RENEW = "Download the file again."


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor: `shape` outermost dimension first, `type_code` of ggml, `offset` in bytes from the file's start."""

    name: str
    shape: tuple[int, ...]
    type_code: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata by key, and the tensors in the order of the file, which has `size` bytes."""

    file: Path
    size: int
    metadata: dict[str, Any]
    tensors: tuple[TensorRecord, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises ModelError naming the file that is not GGUF, of another version, cut short or damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Reader(path, file, size).header()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: the header is damaged: {error}.", _RENEW) from error


class _Reader:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size

    def header(self) -> GgufHeader:
        if (magic := self._file.read(4)) != MAGIC:
            refuse_stand_in(self._path, magic + self._file.read(START_BYTES), ModelError)
            raise ModelError(f"{self._path} is not a GGUF file: it does not begin with {MAGIC.decode()}.")
        version = self._number("I")
        if version not in _VERSIONS:
            known = " and ".join(map(str, _VERSIONS))
            raise ModelError(
                f"{self._path} has GGUF version {version}; versions {known} are read, lowest byte first.",
                "Convert the model to GGUF again with a current llama.cpp.",
            )
        tensor_count, key_count = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._string()
            metadata[key] = self._value(self._number("I"))
        records = [self._record() for _ in range(tensor_count)]
        start = self._aligned(metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
        counts = Counter(record.name for record in records)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ModelError(f"{self._path} has tensors twice: {', '.join(twice[:20])}.", _RENEW)
        tensors = (TensorRecord(r.name, r.shape, r.type_code, start + r.offset) for r in records)
        return GgufHeader(self._path, self._size, metadata, tuple(tensors))

    def _aligned(self, alignment: Any) -> int:
        if not isinstance(alignment, int) or alignment < 1:
            raise ModelError(f"{self._path}: general.alignment is {alignment!r}, which is no number of bytes.", _RENEW)
        return -(-self._file.tell() // alignment) * alignment

    def _record(self) -> TensorRecord:
        name, count = self._string(), self._number("I")
        if count > _MOST_DIMENSIONS:
            raise ModelError(f"{self._path}: tensor {name} has {count} dimensions.", _RENEW)
        shape = tuple(self._number("Q") for _ in range(count))
        return TensorRecord(name, shape[::-1], self._number("I"), self._number("Q"))

    def _value(self, code: int) -> Any:
        if code in _SCALARS:
            return self._number(_SCALARS[code])
        if code == _STRING:
            return self._string()
        if code != _ARRAY:
            raise ModelError(f"{self._path}: the metadata has a value of the unknown type {code}.", _RENEW)
        inner, count = self._number("I"), self._number("Q")
        if inner in _SCALARS:
            kind = struct.Struct(f"<{_SCALARS[inner]}")
            return [value for (value,) in kind.iter_unpack(self._read(count * kind.size))]
        self._check(count)
        return [self._value(inner) for _ in range(count)]

    def _string(self) -> str:
        return self._read(self._number("Q")).decode("utf-8")

    def _number(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self._read(struct.calcsize(f"<{kind}")))
        return value

    def _read(self, count: int) -> bytes:
        self._check(count)
        return self._file.read(count)

    def _check(self, count: int) -> None:
        if count > self._size - self._file.tell():
            raise ModelError(f"{self._path} is truncated: it ends inside its header, at {self._size} bytes.", _RENEW)
