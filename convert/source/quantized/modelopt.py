"""ModelOpt's Hugging Face export: FP8, NVFP4, int8 (SmoothQuant) and int4 (AWQ), whose inputs may be scaled beforehand.

Such a `pre_quant_scale` multiplies the inputs, so that the matrix in the model's own terms is multiplied by it, column
by column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from inflight.convert.source.quantized.float4 import NV_SCALE, nvfp4_tensor
from inflight.convert.source.quantized.float8 import ACTIVATION_ENDINGS
from inflight.convert.source.quantized.grouped import GroupedTensor, Integers
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.quantized.scaled import FLOAT8, scaled_stacks, scaled_tensor
from inflight.convert.source.stored import read_all, read_rows
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, Measured, SourceTensor
from inflight.dtypes import FLOAT_DTYPES
from inflight.files.tensor_file import TensorEntry

_ALGORITHMS = (
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_PB_WO",
    "W4A16_AWQ",
    "W4A8_AWQ",
    "INT8_SQ",
    "INT8_WO",
    "W8A8_SQ_PER_CHANNEL",
    "W8A16",
    "NVFP4",
    "NVFP4_AWQ",
    "MIXED_PRECISION",
)
_BLOCK = (128, 128)


def modelopt_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not supported."""
    layers = config.get("quantized_layers")
    each = [layer.get("quant_algo") for layer in layers.values()] if isinstance(layers, dict) else []
    named = dict.fromkeys(str(name) for name in (config.get("quant_algo"), *each) if name is not None)
    known = ", ".join(_ALGORITHMS)
    return [f"quant_algo {name!r} (supported: {known})" for name in named if name.upper() not in _ALGORITHMS]


def modelopt_tensors(config: Mapping[str, Any], parts: Parts) -> Iterator[SourceTensor]:
    """Every weight of 8-bit floats or integers, and of bytes that hold two int4 or two floats of 4 bits."""
    parts.leave_out((*ACTIVATION_ENDINGS, ".weight_scale_2"))
    for module, weight in parts.weights((*FLOAT8, "int8", "uint8")):
        found: SourceTensor | None
        scale = parts.find(module, "weight_scale")
        if weight.dtype == "uint8" and scale is not None and scale.dtype == NV_SCALE:
            found = nvfp4_tensor(parts, module, "weight", "weight_scale_2")
        elif weight.dtype == "uint8":
            found = _int4(parts, module, weight)
        else:
            form = "ModelOpt int8" if weight.dtype == "int8" else "ModelOpt FP8"
            # Of blocks it has four dimensions, two of them 1.
            block = _BLOCK if scale is not None and len(scale.shape) == 4 else None
            found = scaled_tensor(parts, module, form, weight, "weight_scale", block)
        before = parts.find(module, "pre_quant_scale")
        if before is not None and found is not None:
            before = parts.take(module, "pre_quant_scale", [(found.shape[1],)], FLOAT_DTYPES)
        if found is not None:
            yield found if before is None else PreScaled(found, before)
    yield from scaled_stacks(parts, "ModelOpt FP8")


def _int4(parts: Parts, module: str, weight: TensorEntry) -> ModelOptInt4 | None:
    if len(weight.shape) != 2:
        parts.problems.append(f"misshapen tensor: {weight.name} {weight.shape} is no matrix")
        return None
    rows, width = 2 * weight.shape[0], weight.shape[1]
    scale = parts.take(module, "weight_scale", dtypes=FLOAT_DTYPES)
    if scale is None:
        return None
    if len(scale.shape) != 2 or scale.shape[0] != rows or not scale.shape[1] or width % scale.shape[1]:
        parts.problems.append(f"misshapen tensor: {scale.name} {scale.shape} does not go with ({rows}, {width}) int4")
        return None
    return ModelOptInt4(module, (rows, width), weight, scale)


class ModelOptInt4(GroupedTensor):
    """One matrix [out / 2, in] of bytes: the even of two neighbouring outputs in the low nibble; levels -8 .. 7."""

    def __init__(self, module: str, shape: tuple[int, int], packed: TensorEntry, scale: TensorEntry) -> None:
        size = shape[1] // scale.shape[1]
        super().__init__(f"{module}.weight", shape, "ModelOpt int4", (packed,), scale, bits=4, group_size=size)
        self._packed = packed

    def _levels(self, start: int, stop: int) -> Integers:
        first = start // 2
        packed = read_rows(self._packed, first, -(-stop // 2)).view(np.int8)
        pairs = np.stack([packed << 4 >> 4, packed >> 4], axis=1).reshape(-1, packed.shape[1])
        levels: Integers = pairs[start - 2 * first : stop - 2 * first].astype(np.int32)
        return levels

    def _scales(self, start: int, stop: int) -> Array:
        return read_rows(self._scale, start, stop)

    def _zeros(self, start: int, stop: int) -> None:
        return None


class PreScaled(SourceTensor):
    """A quantized matrix times the scales of its inputs, in float32. Levels are those without them."""

    dtype = "float32"

    def __init__(self, inner: SourceTensor, before: TensorEntry) -> None:
        self.name, self.shape = inner.name, inner.shape
        self._inner, self._before = inner, before

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes + self._before.nbytes

    @property
    def stored_type(self) -> str:
        return f"{self._inner.stored_type} with pre_quant_scale"

    @property
    def work_bytes(self) -> int:
        return self._inner.work_bytes

    def rows(self, start: int, stop: int) -> Array:
        levels = self._inner.levels(start, stop)
        values = self._inner.rows(start, stop) if levels is None else _wide(levels)
        scaled: Array = values.astype(np.float32) * read_all(self._before).astype(np.float32)
        return scaled

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        return self._inner.levels(start, stop)

    @property
    def form(self) -> LevelForm | None:
        form = self._inner.form
        return None if form is None else form._replace(scaled=True)

    @cached_property
    def measured(self) -> Measured:
        return Measured(factors=read_all(self._before).astype(np.float32))


def _wide(levels: GroupLevels) -> Array:
    """The numbers without the rounding to the type of the scales: one rounding is enough."""
    return replace(levels, scales=levels.scales.astype(np.float32)).values()
