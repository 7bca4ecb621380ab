"""Tensors of a GGUF file: blocks of a row's neighbouring numbers, dequantized by the gguf package's own arithmetic."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from inflight.convert.source.gguf.blocks import FORMS, block_levels
from inflight.convert.source.gguf.header import GgufHeader, TensorRecord
from inflight.convert.source.stored import read_bytes
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, Seen, SourceTensor
from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError

_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Those whose numbers are no levels times scales are dequantized alone.
_DEQUANTIZED = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0")
SUPPORTED = (*_PLAIN, *FORMS, *_DEQUANTIZED)
_RENEW = "Download the file again."


def gguf_tensors(header: GgufHeader) -> dict[str, GgufTensor]:
    """The tensors under their names in the file. Raises ModelError naming each one of an unsupported type, and each
    one that reaches beyond the end of the file."""
    import gguf

    known = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    odd, cut, found = [], [], {}
    for record in header.tensors:
        kind = known.get(record.type_code, str(record.type_code))
        if kind not in SUPPORTED:
            odd.append(f"{record.name} ({kind})")
            continue
        tensor = GgufTensor(header, record, kind)
        if not record.shape or record.shape[-1] % tensor.block_size:
            raise ModelError(f"{header.file}: tensor {record.name} of type {kind} has shape {record.shape}.", _RENEW)
        if record.offset + tensor.nbytes > header.size:
            cut.append(record.name)
        found[record.name] = tensor
    if odd:
        raise ModelError(
            f"{header.file} has {len(odd)} tensor(s) of a type that is not read: {_listed(odd)}.",
            f"Supported types: {', '.join(SUPPORTED)}.",
        )
    if cut:
        raise ModelError(f"{header.file} is truncated: {header.size} bytes do not hold {_listed(cut)}.", _RENEW)
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


class GgufTensor(SourceTensor):
    """One tensor as the file has it. Plain types are read as they are, blocks become float32."""

    def __init__(self, header: GgufHeader, record: TensorRecord, kind: str) -> None:
        import gguf

        self._type = gguf.GGMLQuantizationType[kind]
        self.block_size, self._block_bytes = map(int, gguf.GGML_QUANT_SIZES[self._type])
        self._file, self._offset = header.file, record.offset
        self.name, self.shape, self.kind = record.name, record.shape, kind
        self.dtype = _PLAIN.get(kind, "float32")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.block_size * self._block_bytes

    @property
    def stored_type(self) -> str:
        return self.dtype if self.kind in _PLAIN else self.kind

    @property
    def work_bytes(self) -> int:
        return numpy_dtype(self.dtype).itemsize if self.kind in _PLAIN else 16

    def rows(self, start: int, stop: int) -> Array:
        if len(self.shape) == 1:
            return self._values(self._bytes(0, self.nbytes)).reshape(-1)[start:stop]
        return self._values(self._blocks(start, stop)).reshape(stop - start, *self.shape[1:])

    def parts(self) -> list[GgufTensor]:
        """What lies at each place of the first axis."""
        count, size = self.shape[0], self.nbytes // max(1, self.shape[0])
        places = [self._offset + number * size for number in range(count)]
        return [self._within(self.shape[1:], place) for place in places]

    def halves(self) -> tuple[GgufTensor, GgufTensor]:
        """The first half of its rows, and the second."""
        shape = (self.shape[0] // 2, *self.shape[1:])
        return self._within(shape, self._offset), self._within(shape, self._offset + self.nbytes // 2)

    def _within(self, shape: tuple[int, ...], offset: int) -> GgufTensor:
        part = copy(self)
        part.shape, part._offset = shape, offset
        return part

    def _values(self, blocks: Array) -> Array:
        if self.kind in _PLAIN:
            return blocks.reshape(-1).view(numpy_dtype(self.dtype))
        from gguf import dequantize

        # Random bits of a damaged file may be an infinite scale, which the writer names.
        with np.errstate(all="ignore"):
            values: Array = dequantize(blocks, self._type)
        return values

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        if self.form is None:
            return None
        with np.errstate(all="ignore"):
            levels, scales, offsets = block_levels(
                self.kind, self._blocks(start, stop).reshape(stop - start, -1, self._block_bytes)
            )
        which = np.arange(self.shape[1], dtype=np.int64) // self.form.group_size
        return GroupLevels(levels, scales, None, which, self.form.group_size, offsets, self.form.codebook)

    @property
    def form(self) -> LevelForm | None:
        return FORMS.get(self.kind) if len(self.shape) == 2 else None

    def _blocks(self, start: int, stop: int) -> Array:
        """The bytes of these rows, [stop - start, bytes of a row]."""
        row = self.nbytes // max(1, self.shape[0])
        return self._bytes(start * row, (stop - start) * row).reshape(stop - start, row)

    def _bytes(self, start: int, count: int) -> Array:
        return read_bytes(self._file, self.name, self._offset + start, count)


class Offset(Seen):
    """The weights of a norm without the one that llama.cpp's converter added."""

    def rows(self, start: int, stop: int) -> Array:
        rows = self._inner.rows(start, stop)
        return (rows.astype(np.float32) - np.float32(1)).astype(rows.dtype)


class OneRow(Seen):
    """A matrix of one row, of which llama.cpp's converter left the one axis out."""

    def __init__(self, name: str, inner: SourceTensor) -> None:
        super().__init__(name, inner)
        self.shape = (1, *inner.shape)

    def rows(self, start: int, stop: int) -> Array:
        return self._inner.rows(0, self.shape[1])[None][start:stop]


class HeadRows(Seen):
    """Rows of a query or key projection in the order of transformers, which turns the halves of a head; llama.cpp's
    converter interleaved them: its row 2 i + h of a head is row i of half h.
    """

    def __init__(self, name: str, inner: SourceTensor, head_size: int) -> None:
        super().__init__(name, inner)
        self._head_size = head_size

    def rows(self, start: int, stop: int) -> Array:
        first, order = self._order(start, stop)
        last = min(self.shape[0], -(-stop // self._head_size) * self._head_size)
        rows: Array = self._inner.rows(first, last)[order]
        return rows

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        first, order = self._order(start, stop)
        found = self._inner.levels(first, min(self.shape[0], -(-stop // self._head_size) * self._head_size))
        if found is None:
            return None
        offsets = None if found.offsets is None else found.offsets[order]
        return replace(found, levels=found.levels[order], scales=found.scales[order], offsets=offsets)

    def _order(self, start: int, stop: int) -> tuple[int, Any]:
        """The first row of the head of `start`, and from there the stored rows of start .. stop."""
        size, half = self._head_size, self._head_size // 2
        wanted = np.arange(start, stop)
        head, row = np.divmod(wanted, size)
        first = start // size * size
        return first, head * size + 2 * (row % half) + row // half - first
