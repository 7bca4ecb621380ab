"""bitsandbytes: int8 with a greatest magnitude for each row, and 4-bit codes (NF4, FP4) with one for each block.

Dettmers et al., 2022 and 2023. Blocks run over the flattened matrix; their greatest magnitudes may be 8-bit codes with
scales of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.codebooks import codebook_of
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.stored import read_all, read_bytes, read_rows
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, SourceTensor
from inflight.dtypes import FLOAT_DTYPES, numpy_dtype
from inflight.files.tensor_file import TensorEntry

_INT8_STEP = np.float32(7.874015718698502e-3)  # 1 / 127, as bitsandbytes spells it
_STATES = tuple(f"quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
_LEFT_OUT = (".weight_format",)


def bitsandbytes_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not supported: either kind has all that it needs in its tensors."""
    kind = config.get("bnb_4bit_quant_type", "nf4")
    if config.get("load_in_4bit") and kind not in ("nf4", "fp4"):
        return [f"bnb_4bit_quant_type {kind!r} (supported: nf4, fp4)"]
    return []


def bitsandbytes_tensors(config: Mapping[str, Any], parts: Parts) -> Iterator[SourceTensor]:
    """Every weight of int8 with an SCB, and of bytes with a quant_state."""
    parts.leave_out(_LEFT_OUT)
    for module, weight in parts.weights(("int8",)):
        if len(weight.shape) != 2:
            parts.problems.append(f"misshapen tensor: {weight.name} {weight.shape} is no matrix")
            continue
        greatest = parts.take(module, "SCB", [weight.shape[:1]], ("float32",))
        if greatest is not None:
            yield RowInt8(weight, greatest)
    for module, weight in parts.weights(("uint8",)):
        found = _codes(parts, f"{module}.weight", weight)
        if found is not None:
            yield found


class RowInt8(SourceTensor):
    """int8 levels; a number is its level times the greatest magnitude of its row over 127, in float32, where the tool
    multiplies by one after the other.
    """

    dtype = "float32"
    stored_type = "bitsandbytes int8"
    work_bytes = 8

    def __init__(self, weight: TensorEntry, greatest: TensorEntry) -> None:
        self.name, self.shape = weight.name, weight.shape
        self._weight, self._greatest = weight, greatest

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes + self._greatest.nbytes

    def rows(self, start: int, stop: int) -> Array:
        levels = read_rows(self._weight, start, stop).astype(np.float32)
        scaled: Array = levels * read_rows(self._greatest, start, stop)[:, None] * _INT8_STEP
        return scaled

    def levels(self, start: int, stop: int) -> GroupLevels:
        scales = read_rows(self._greatest, start, stop)[:, None] * _INT8_STEP
        width = self.shape[1]
        levels = read_rows(self._weight, start, stop).astype(np.int32)
        return GroupLevels(levels, scales, None, np.zeros(width, np.int64), width)

    @property
    def form(self) -> LevelForm:
        return LevelForm(8, self.shape[1], False)


class _State(NamedTuple):
    """The JSON beside 4-bit codes; `nested_size` 0: greatest magnitudes are numbers."""

    kind: str
    shape: tuple[int, int]
    dtype: str
    size: int
    nested_size: int
    offset: float


def _read_state(entry: TensorEntry) -> _State | None:
    try:
        facts = json.loads(read_all(entry).tobytes())
        rows, columns = map(int, facts["shape"])
        nested = int(facts.get("nested_blocksize") or 0)
        state = _State(
            str(facts["quant_type"]),
            (rows, columns),
            str(facts["dtype"]).removeprefix("torch."),
            int(facts["blocksize"]),
            nested,
            float(facts.get("nested_offset") or 0.0),
        )
    except (ValueError, KeyError, TypeError):
        return None
    return state if min(rows, columns, state.size) > 0 and state.dtype in FLOAT_DTYPES and columns % 2 == 0 else None


def _codes(parts: Parts, name: str, weight: TensorEntry) -> Codes | None:
    present = [state for state in _STATES if parts.has(name, state)]
    entry = parts.take(name, present[0] if present else _STATES[0])
    if entry is None:
        return None
    state = _read_state(entry)
    if state is None or weight.nbytes != state.shape[0] * state.shape[1] // 2:
        parts.problems.append(f"tensor {entry.name} does not describe {weight.name} {weight.shape}")
        return None
    blocks = -(-state.shape[0] * state.shape[1] // state.size)
    code = parts.take(name, "quant_map", [(16,)], ("float32",))
    greatest = parts.take(name, "absmax", [(blocks,)], ("uint8" if state.nested_size else "float32",))
    nested, nested_code = None, None
    if state.nested_size:
        nested = parts.take(name, "nested_absmax", [(-(-blocks // state.nested_size),)], ("float32",))
        nested_code = parts.take(name, "nested_quant_map", [(256,)], ("float32",))
        if nested is None or nested_code is None:
            return None
    if code is None or greatest is None:
        return None
    return Codes(weight, state, code, greatest, nested, nested_code)


class Codes(SourceTensor):
    """4-bit codes, the first of two in the high nibble; a number is the code's times the block's greatest magnitude."""

    work_bytes = 16

    def __init__(
        self,
        weight: TensorEntry,
        state: _State,
        code: TensorEntry,
        greatest: TensorEntry,
        nested: TensorEntry | None,
        nested_code: TensorEntry | None,
    ) -> None:
        self.name, self.shape, self.dtype = weight.name, state.shape, state.dtype
        self._weight, self._state, self._code, self._greatest = weight, state, code, greatest
        self._nested, self._nested_code = nested, nested_code

    @property
    def nbytes(self) -> int:
        parts = (self._weight, self._code, self._greatest, self._nested, self._nested_code)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def stored_type(self) -> str:
        return f"bitsandbytes {self._state.kind}"

    def rows(self, start: int, stop: int) -> Array:
        width, size = self.shape[1], self._state.size
        codes = self._codes_of(start, stop).reshape(-1)
        first = start * width // size
        greatest = self._magnitudes(first, -(-stop * width // size))
        blocks = np.arange(start * width, stop * width) // size - first
        values = read_all(self._code)[codes] * greatest[blocks]
        rounded: Array = values.astype(numpy_dtype(self.dtype)).reshape(stop - start, width)
        return rounded

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        """Their products are not rounded to the model's type."""
        if self.form is None:
            return None
        size, codes = self._state.size, self._codes_of(start, stop).astype(np.int32)
        each = self.shape[1] // size
        scales = self._magnitudes(start * each, stop * each).reshape(stop - start, each)
        groups = np.arange(self.shape[1], dtype=np.int64) // size
        return GroupLevels(codes, scales, None, groups, size, codebook=self.form.codebook)

    @cached_property
    def form(self) -> LevelForm | None:
        """None where blocks reach from a row into the next, or the table is one of the file's own."""
        whole, codebook = self.shape[1] % self._state.size == 0, codebook_of(read_all(self._code))
        return LevelForm(4, self._state.size, False, codebook) if whole and codebook else None

    def _codes_of(self, start: int, stop: int) -> Array:
        """uint8 [stop - start, in]."""
        width = self.shape[1]
        packed = read_bytes(
            self._weight.file, self.name, self._weight.offset + start * width // 2, (stop - start) * width // 2
        )
        codes: Array = np.stack([packed >> 4, packed & 0xF], axis=-1).reshape(stop - start, width)
        return codes

    def _magnitudes(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """The greatest magnitudes of blocks start .. stop."""
        found: Any = read_rows(self._greatest, start, stop)
        if self._nested is None or self._nested_code is None:
            return np.asarray(found, np.float32)
        nested = read_all(self._nested)[np.arange(start, stop) // self._state.nested_size]
        return np.asarray(read_all(self._nested_code)[found] * nested + np.float32(self._state.offset), np.float32)
