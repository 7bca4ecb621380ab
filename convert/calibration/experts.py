"""The matrices of all experts of a layer, each rounded for the rows of the text that met it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from inflight.convert.calibration.gptq import (
    Floats,
    Levels,
    float8_scales,
    gptq_float8,
    gptq_levels,
    group_scales,
    int4_levels,
)
from inflight.convert.calibration.statistics import InputStatistics
from inflight.convert.checkpoint.expert_stacks import Stack
from inflight.convert.quantization.round_to_nearest import dequantize, float8_levels
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.tensor import Array, ChosenLevels

# An expert that fewer rows met for each of its inputs is rounded to nearest: what so few ask for others do not.
LEAST_ROWS = 0.25


class CalibratedStack(NamedTuple):
    """Levels and scales of all matrices, one behind the other; what they mean, float32 (out, in) by expert; and how
    many of them were rounded to nearest.
    """

    chosen: ChosenLevels
    rounded: list[Floats]
    nearest: int


def calibrate_stack(
    stack: Stack, count: int, met: Mapping[int, InputStatistics], group_size: int, scheme: QuantScheme
) -> CalibratedStack:
    """GPTQ of the matrices of `count` experts, to the levels of the scheme, which are int4 in groups of `group_size` or
    8-bit floats. `met`: of the rows that each multiplied, if there were some.
    """
    floats = scheme.weights.dtype == "float8_e4m3fn"
    levels: list[Array] = []
    scales: list[Floats] = []
    nearest = 0
    for expert in range(count):
        weight = np.asarray(stack[expert]).astype(np.float32)
        inputs = met.get(expert)
        enough = inputs is not None and inputs.count >= LEAST_ROWS * weight.shape[1]
        hessian = inputs.hessian if inputs is not None and enough else None
        divisors = scheme.divisors
        found = _float8(weight, hessian, divisors) if floats else _int4(weight, hessian, group_size, divisors)
        nearest += not enough
        levels.append(found[0])
        scales.append(found[1])
    size = 0 if floats else group_size
    rounded = [dequantize(*each, size) for each in zip(levels, scales, strict=True)]
    chosen = ChosenLevels(np.concatenate(levels), np.concatenate(scales), "float8_e4m3fn" if floats else "int4")
    return CalibratedStack(chosen, rounded, nearest)


def _int4(
    weight: Floats, hessian: Floats | None, group_size: int, divisors: tuple[float, ...]
) -> tuple[Levels, Floats]:
    """Without a Hessian the nearest levels, under the scales that lose least when all inputs are alike."""
    if hessian is not None:
        return gptq_levels(weight, hessian, group_size, divisors)
    scales = group_scales(weight, np.ones(weight.shape[1], np.float32), group_size, divisors)
    columns = np.repeat(scales, group_size, axis=1)[:, : weight.shape[1]]
    return int4_levels(weight, columns).astype(np.int8), scales


def _float8(weight: Floats, hessian: Floats | None, divisors: tuple[float, ...]) -> tuple[Array, Floats]:
    """The same of 8-bit floats, with a scale for each row."""
    power = np.ones(weight.shape[1], np.float32) if hessian is None else hessian.diagonal()
    scales = float8_scales(weight, power, divisors, shared=False)
    return float8_levels(weight, scales[:, None]) if hessian is None else gptq_float8(weight, hessian, scales), scales
