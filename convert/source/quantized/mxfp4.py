"""MXFP4 as gpt-oss stores its experts: E2M1 in groups of 32 inputs with a power of two (OCP Microscaling).

`{name}_blocks` uint8 [experts, out, groups, 16] has two codes to a byte, the first in the lower half, and
`{name}_scales` uint8 [experts, out, groups] the exponents + 127. The model's own tensor is [experts, in, out].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from inflight.convert.quantization.codebooks import powers_of_two
from inflight.convert.source.quantized.float4 import MX_GROUP, E2m1Tensor
from inflight.convert.source.quantized.parts import Parts, part_of
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.dtypes import numpy_dtype
from inflight.files.tensor_file import TensorEntry

_STACKS = ("gate_up_proj", "down_proj")


def mxfp4_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not supported."""
    return []


def mxfp4_tensors(config: Mapping[str, Any], parts: Parts) -> Iterator[SourceTensor]:
    """Every stack of blocks and scales."""
    for name in _STACKS:
        for module in parts.modules(f"{name}_blocks"):
            blocks = parts.take(module, f"{name}_blocks", dtypes=("uint8",))
            shape = () if blocks is None else blocks.shape
            if blocks is not None and (len(shape) != 4 or shape[-1] != MX_GROUP // 2):
                parts.problems.append(f"misshapen tensor: {blocks.name} {shape} holds no groups of {MX_GROUP}")
                blocks = None
            scales = None if blocks is None else parts.take(module, f"{name}_scales", [shape[:3]], ("uint8",))
            if blocks is not None and scales is not None:
                yield Mxfp4Stack(f"{module}.{name}", blocks, scales)


class Mxfp4Stack(SourceTensor):
    """The matrices of all experts, [experts, in, out] as the model has them; exact in bfloat16."""

    dtype, work_bytes = "bfloat16", 16

    def __init__(self, name: str, blocks: TensorEntry, scales: TensorEntry) -> None:
        self._blocks, self._scales = blocks, scales
        experts, outputs, groups, _ = blocks.shape
        self.name, self.shape = name, (experts, groups * MX_GROUP, outputs)

    @property
    def nbytes(self) -> int:
        return self._blocks.nbytes + self._scales.nbytes

    @property
    def stored_type(self) -> str:
        return "MXFP4"

    def rows(self, start: int, stop: int) -> Array:
        found = np.empty((max(0, stop - start), *self.shape[1:]), numpy_dtype(self.dtype))
        for place, number in enumerate(range(start, stop)):
            found[place] = self.expert(number).rows(0, self.shape[2]).T
        return found

    def expert(self, number: int) -> E2m1Tensor:
        """The matrix (out, in) of one expert, with its levels."""
        _, inputs, outputs = self.shape
        packed = part_of(self._blocks, number, (outputs, inputs // 2))
        scale = part_of(self._scales, number, (outputs, inputs // MX_GROUP))
        return E2m1Tensor("MXFP4", self.name, (packed, scale), MX_GROUP, self.dtype, powers_of_two)
