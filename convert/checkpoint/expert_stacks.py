"""The matrices of all experts of a layer, quantized one by one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from inflight.convert.quantization.round_to_nearest import dequantize, unpack_pairs
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.convert.quantization.schemes import RECIPES, QuantScheme

Array = npt.NDArray[Any]
_FLOAT8 = "float8_e4m3fn"

# What experts get in place of schemes that multiply inputs by factors, since all experts meet the same rows, and of one
# whose rows share a stored scale, since each expert's second product has rows of its own.
_INSTEAD = {
    "int4_awq": "int4_gptq",
    "w4a8_awq": "w4a8_gptq",
    "w4a8_sq": "w4a8_gptq",
    "int8_sq": "int8_w8a8",
    "fp8_tensorwise": "fp8_rowwise",
}


class Stack(Protocol):
    """Matrices (out, in) by the number of their expert."""

    def __getitem__(self, expert: Any, /) -> Any: ...


class QuantizedStack:
    """`levels` [experts, out, in], or of 4 bits [experts, out / 2, in] with two neighbouring rows in a byte; `scales`,
    and `zeros` where there are some, [experts, out] or [experts, out, groups].
    """

    def __init__(self, levels: Array, scales: Array, zeros: Array | None, quantization: WeightQuantization) -> None:
        self._levels, self._scales, self._zeros, self._how = levels, scales, zeros, quantization

    def __getitem__(self, expert: Any, /) -> Array:
        levels, scales, coded = self._levels[expert], self._scales[expert], self._how.codebook
        if self._how.bits == 4:
            levels = unpack_pairs(levels, len(scales), signed=coded is None)
        zeros = None if self._zeros is None else self._zeros[expert]
        return dequantize(levels, scales, self._how.group_size, zeros, coded)


def of_experts(scheme: QuantScheme | None) -> QuantScheme | None:
    """What experts get where their matrices would have this scheme: rows that have scales of their own. None: they stay
    plain.
    """
    return None if scheme is None else RECIPES[_INSTEAD.get(scheme.name, scheme.name)]


def stack_problem(scheme: QuantScheme) -> str | None:
    """Why no stack of experts is stored in this way; None where one may be."""
    if scheme.rows.scale != "own" or scheme.scaled_inputs:
        return "experts whose rows have a stored scale or factors"
    return None


def alike(scheme: QuantScheme, other: QuantScheme) -> bool:
    """Whether one kernel reads stacks of both schemes: both are 8-bit floats, or neither is."""
    return (scheme.weights.dtype == _FLOAT8) == (other.weights.dtype == _FLOAT8)
