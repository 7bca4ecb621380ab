"""GPTQ (Frantar et al., 2023): levels chosen so that a product changes little on the calibration text.

Columns are rounded one after the other, those with the greatest inputs first; what a column loses is made up for by
the columns still to come, as the inverse Hessian of the squared error says. Scales are chosen beforehand, so that the
order needs no record in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.multiples import whole_multiples
from inflight.convert.quantization.round_to_nearest import LEAST_FLOAT8_SCALE, float8_levels

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int8]
Float8 = npt.NDArray[Any]

LEAST_LEVEL, GREATEST_LEVEL = -8, 7
# Added to the Hessian's diagonal, as a share of its mean, so that it has an inverse.
DAMPING = 0.01
_BLOCK = 128


def gptq_levels(weight: Floats, hessian: Floats, group_size: int, divisors: Sequence[float]) -> tuple[Levels, Floats]:
    """weight [N, K] as levels [N, K] and scales [N, ceil(K / group_size)], level times scale being near the weight.

    `hessian` [K, K] is the mean of x x^T over the rows x that the matrix multiplies. The scale of a group is its
    extreme over that one of `divisors` which loses least, weighted by the inputs; scales may be negative, so that
    either extreme can get the level -8.
    """
    scales = group_scales(weight, _power(hessian), group_size, divisors)
    columns = np.ascontiguousarray(scales.T)[np.arange(weight.shape[1]) // group_size]
    return _round_columns(weight, hessian, columns, int4_levels).astype(np.int8), scales


def gptq_float8(weight: Floats, hessian: Floats, scales: Floats) -> Float8:
    """weight [N, K] as E4M3 levels [N, K] over these scales, [1] for the matrix or [N] for its rows."""
    columns = np.broadcast_to(scales, (weight.shape[1], len(scales)))
    return _round_columns(weight, hessian, columns, _float8).astype(ml_dtypes.float8_e4m3fn)


def float8_scales(weight: Floats, power: Floats, divisors: Sequence[float], shared: bool) -> Floats:
    """Scales of weight [N, K]: [N], one for each row, or if `shared` [1] for the matrix. Each is the greatest magnitude
    over that one of `divisors` which loses least, weighted by the inputs' mean squares `power` [K], and never below the
    least that TensorRT-LLM writes.
    """
    greatest = np.abs(weight).max(axis=1, initial=0)
    greatest = greatest.max(keepdims=True) if shared else greatest
    tried = [np.maximum(greatest / np.float32(each), np.float32(LEAST_FLOAT8_SCALE)) for each in divisors]
    lost = [np.square(_float8(weight, each[:, None]) * each[:, None] - weight) @ power for each in tried]
    if shared:
        lost = [each.sum(keepdims=True) for each in lost]
    best: Floats = np.choose(np.argmin(lost, axis=0), tried)
    return best


def _round_columns(
    weight: Floats, hessian: Floats, scales: Floats, nearest: Callable[[Floats, Floats], Floats]
) -> Floats:
    """Levels float32 [N, K] of weight [N, K]; `scales` [K, N] or [K, 1] are those of its columns, and `nearest` gives
    the levels of numbers over scales.
    """
    count, width = weight.shape
    order = np.argsort(-_power(hessian), kind="stable")
    upper = _inverse_factor(hessian[np.ix_(order, order)])
    rest = np.ascontiguousarray(weight.T[order])
    levels = np.empty((width, count), np.float32)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        errors = np.empty((stop - start, count), np.float32)
        for column in range(start, stop):
            scale, value = scales[order[column]], rest[column]
            level = nearest(value, scale)
            levels[order[column]] = level
            error = (value - level * scale) / upper[column, column]
            errors[column - start] = error
            rest[column + 1 : stop] -= upper[column, column + 1 : stop, None] * error
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return np.ascontiguousarray(levels.T)


def _power(hessian: Floats) -> Floats:
    """The mean square of each input."""
    return np.ascontiguousarray(hessian.diagonal())


def _float8(values: Floats, scales: Floats) -> Floats:
    return float8_levels(values, scales).astype(np.float32)


def group_scales(weight: Floats, power: Floats, group_size: int, divisors: Sequence[float]) -> Floats:
    """Scales [N, groups] of weight [N, K]; `power` [K] is the mean square of each input. They are whole multiples of a
    unit of their row, which an engine adds up in integers.
    """
    count, width = weight.shape
    groups = -(-width // group_size)
    spare = groups * group_size - width
    blocks = np.pad(weight, ((0, 0), (0, spare))).reshape(count, groups, group_size)
    importance = np.pad(power, (0, spare)).reshape(groups, group_size)

    def lost(scales: Floats) -> Floats:
        errors = np.square(int4_levels(blocks, scales[..., None]) * scales[..., None] - blocks)
        weighted: Floats = np.einsum("ngk,gk->ng", errors, importance)
        return weighted

    low, high = blocks.min(axis=-1), blocks.max(axis=-1)
    extreme = np.where(high > -low, high, low)
    best = np.zeros((count, groups), np.float32)
    least = np.full((count, groups), np.inf, np.float32)
    for divisor in divisors:
        scales = extreme / np.float32(divisor)
        error = lost(scales)
        better = error < least
        least[better], best[better] = error[better], scales[better]
    return whole_multiples(best, lost)


def int4_levels(values: Floats, scales: Floats) -> Floats:
    """The nearest levels of values over scales that broadcast; 0 where the scale is."""
    divided = np.divide(values, scales, out=np.zeros_like(values), where=scales != 0)
    levels: Floats = np.clip(np.rint(divided), LEAST_LEVEL, GREATEST_LEVEL)
    return levels


def _inverse_factor(hessian: Floats) -> Floats:
    """The upper triangular U with U^T U the inverse of the damped Hessian."""
    damped = hessian.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    # An input that is always zero may be multiplied by anything.
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    inverse = np.linalg.inv(damped)
    factor: Floats = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    return factor
