"""The matrices of all experts of a layer, each rounded for the rows of the text that met it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from inflight.convert.calibration.gptq import Floats, Levels, gptq_levels, group_scales, int4_levels
from inflight.convert.calibration.statistics import InputStatistics
from inflight.convert.checkpoint.expert_stacks import Stack
from inflight.convert.quantization.round_to_nearest import dequantize
from inflight.convert.source.tensor import ChosenLevels

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
    stack: Stack, count: int, met: Mapping[int, InputStatistics], group_size: int, divisors: tuple[float, ...]
) -> CalibratedStack:
    """GPTQ of the matrices of `count` experts. `met`: of the rows that each multiplied, if there were some."""
    levels: list[Levels] = []
    scales: list[Floats] = []
    nearest = 0
    for expert in range(count):
        weight = np.asarray(stack[expert]).astype(np.float32)
        inputs = met.get(expert)
        if inputs is not None and inputs.count >= LEAST_ROWS * weight.shape[1]:
            found = gptq_levels(weight, inputs.hessian, group_size, divisors)
        else:
            found, nearest = _nearest_levels(weight, group_size, divisors), nearest + 1
        levels.append(found[0])
        scales.append(found[1])
    rounded = [dequantize(*each, group_size) for each in zip(levels, scales, strict=True)]
    return CalibratedStack(ChosenLevels(np.concatenate(levels), np.concatenate(scales), "int4"), rounded, nearest)


def _nearest_levels(weight: Floats, group_size: int, divisors: tuple[float, ...]) -> tuple[Levels, Floats]:
    """The nearest levels, under the scales that lose least when all inputs are alike."""
    scales = group_scales(weight, np.ones(weight.shape[1], np.float32), group_size, divisors)
    columns = np.repeat(scales, group_size, axis=1)[:, : weight.shape[1]]
    return int4_levels(weight, columns).astype(np.int8), scales
