"""AWQ as AutoAWQ's `gemm` version stores it: int4 packed along the outputs, (in, out / 8), scales (groups, out).

Lin et al., 2023. Eight neighbouring outputs share a word in the order 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from inflight.convert.source.quantized.grouped import GroupedTensor, Integers, half_range, unpack_last
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.stored import read_columns
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.dtypes import FLOAT_DTYPES
from inflight.files.tensor_file import TensorEntry

_BITS, _EACH = 4, 8
# Place in the word of each of eight outputs.
_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])


def awq_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not supported."""
    problems = []
    if config.get("bits", config.get("w_bit")) != _BITS:
        problems.append(f"bits {config.get('bits', config.get('w_bit'))!r} (supported: {_BITS})")
    version = str(config.get("version", config.get("format", "gemm"))).lower()
    if version != "gemm":
        problems.append(f"version {version!r} (supported: gemm)")
    size = config.get("group_size", config.get("q_group_size", 128))
    if not isinstance(size, int) or (size < 1 and size != -1):
        problems.append(f"group_size {size!r} (a positive number, or -1)")
    return problems


def awq_tensors(config: Mapping[str, Any], parts: Parts) -> Iterator[SourceTensor]:
    """Every matrix that has a qweight."""
    size = config.get("group_size", config.get("q_group_size", 128))
    for module in parts.modules("qweight"):
        packed = parts.take(module, "qweight", dtypes=("int32",))
        if packed is None or len(packed.shape) != 2:
            continue
        width, rows = packed.shape[0], packed.shape[1] * _EACH
        groups = 1 if size == -1 else -(-width // size)
        scale = parts.take(module, "scales", [(groups, rows)], FLOAT_DTYPES)
        zeros = parts.find(module, "qzeros")
        if zeros is not None or config.get("zero_point", True):
            zeros = parts.take(module, "qzeros", [(groups, packed.shape[1])], ("int32",))
            if zeros is None:
                continue
        if scale is not None:
            yield AwqTensor(module, (rows, width), packed, zeros, scale, None if size == -1 else size)


class AwqTensor(GroupedTensor):
    """One matrix; without zero points the levels are centred on 8."""

    def __init__(
        self,
        module: str,
        shape: tuple[int, int],
        packed: TensorEntry,
        zeros: TensorEntry | None,
        scale: TensorEntry,
        group_size: int | None,
    ) -> None:
        name, parts = f"{module}.weight", (packed, zeros)
        super().__init__(name, shape, "AWQ int4", parts, scale, bits=_BITS, group_size=group_size)
        self._packed, self._zero_points = packed, zeros

    def _levels(self, start: int, stop: int) -> Integers:
        return self._unpacked(self._packed, start, stop)

    def _scales(self, start: int, stop: int) -> Array:
        return np.ascontiguousarray(read_columns(self._scale, start, stop).T)

    def _zeros(self, start: int, stop: int) -> Integers | None:
        if self._zero_points is None:
            return None
        return self._unpacked(self._zero_points, start, stop)

    def _unpacked(self, entry: TensorEntry, start: int, stop: int) -> Integers:
        first, last = start // _EACH, -(-stop // _EACH)
        words = unpack_last(read_columns(entry, first, last), _BITS)
        columns = words.reshape(len(words), -1, _EACH)[..., _PLACES].reshape(len(words), -1)
        return np.ascontiguousarray(columns[:, start - first * _EACH : stop - first * _EACH].T) - half_range(_BITS)
