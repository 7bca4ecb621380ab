"""GPTQ: integers packed along the inputs, (in * bits / 32, out), with scales (groups, out).

Frantar et al., 2023; the layout is that of AutoGPTQ, GPTQModel and auto-round. `g_idx` names the group of each input,
which with desc_act are no neighbours; the inputs themselves stay in the model's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from inflight.convert.source.quantized.grouped import GroupedTensor, Integers, half_range, unpack_first, unpack_last
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.stored import read_columns
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.dtypes import FLOAT_DTYPES
from inflight.files.tensor_file import TensorEntry

BITS = (2, 4, 8)
# The first form stores zero points less 1, the second as they are.
_FORMATS = {"gptq": 1, "gptq_v2": 0}


def gptq_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not supported."""
    problems = []
    if config.get("bits") not in BITS:
        problems.append(f"bits {config.get('bits')!r} (supported: {', '.join(map(str, BITS))})")
    form = config.get("checkpoint_format", "gptq")
    if not isinstance(form, str) or form not in _FORMATS:
        problems.append(f"checkpoint_format {form!r} (supported: {', '.join(_FORMATS)})")
    if not _is_group(config.get("group_size", 128)):
        problems.append(f"group_size {config.get('group_size')!r} (a positive number, or -1)")
    return problems


def _is_group(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and (size > 0 or size == -1)


def gptq_tensors(config: Mapping[str, Any], parts: Parts) -> Iterator[SourceTensor]:
    """Every matrix that has a qweight."""
    added = _FORMATS[config.get("checkpoint_format", "gptq")]
    for module in parts.modules("qweight"):
        packed = parts.take(module, "qweight", dtypes=("int32",))
        if packed is None or len(packed.shape) != 2:
            continue
        order, bits, size = parts.find(module, "g_idx"), config["bits"], config.get("group_size", 128)
        if config.get("dynamic") and order is not None and order.shape[0]:
            bits, size = _own(packed, order, parts.find(module, "scales"), bits, size)
        width, rows = packed.shape[0] * 32 // bits, packed.shape[1]
        groups = 1 if size == -1 else -(-width // size)
        scale = parts.take(module, "scales", [(groups, rows)], FLOAT_DTYPES)
        zeros = parts.take(module, "qzeros", [(groups, -(-rows * bits // 32))], ("int32",))
        if order is not None or (config.get("desc_act") is True and not config.get("dynamic")):
            order = parts.take(module, "g_idx", [(width,)], ("int32", "int64"))
        if scale is not None and zeros is not None:
            group_size = None if size == -1 else size
            yield GptqTensor(module, (rows, width), bits, packed, zeros, scale, added, group_size, order)


def _own(packed: TensorEntry, order: TensorEntry, scale: TensorEntry | None, bits: int, size: int) -> tuple[int, int]:
    """Bits and group size of a module, where `dynamic` gives modules their own: as its tensors have them."""
    width = order.shape[0]
    found = packed.shape[0] * 32 // width
    groups = scale.shape[0] if scale is not None and scale.shape else 0
    return found if found in BITS else bits, -(-width // groups) if groups else size


class GptqTensor(GroupedTensor):
    """One matrix; `added` is what its stored zero points lack."""

    def __init__(
        self,
        module: str,
        shape: tuple[int, int],
        bits: int,
        packed: TensorEntry,
        zeros: TensorEntry,
        scale: TensorEntry,
        added: int,
        group_size: int | None,
        order: TensorEntry | None,
    ) -> None:
        form = f"GPTQ int{bits}"
        parts, name = (packed, zeros), f"{module}.weight"
        super().__init__(name, shape, form, parts, scale, bits=bits, group_size=group_size, order=order)
        self._packed, self._zero_points, self._added = packed, zeros, added

    def _levels(self, start: int, stop: int) -> Integers:
        columns = unpack_first(read_columns(self._packed, start, stop), self._bits)
        return np.ascontiguousarray(columns.T) - half_range(self._bits)

    def _scales(self, start: int, stop: int) -> Array:
        return np.ascontiguousarray(read_columns(self._scale, start, stop).T)

    def _zeros(self, start: int, stop: int) -> Integers:
        each = 32 // self._bits
        words = read_columns(self._zero_points, start // each, -(-stop // each))
        first = start // each * each
        found = unpack_last(words, self._bits)[:, start - first : stop - first] + np.int32(self._added)
        # A zero point of 0 was stored as all ones.
        return np.ascontiguousarray(found.T & np.int32((1 << self._bits) - 1)) - half_range(self._bits)
