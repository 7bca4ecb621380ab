"""AWQ (Lin et al., 2023): int4 levels of weights that are scaled by their inputs, and clipped.

Inputs of great magnitude are divided, and their columns multiplied, by a power of that magnitude, so that the weights
that matter most are large in their groups and lose less. The power, and then for each group how much of its extremes is
cut off, are those that change the product least on the calibration text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inflight.convert.calibration.gptq import Floats, Levels, int4_levels
from inflight.convert.quantization.round_to_nearest import dequantize, quantize_groups
from inflight.dtypes import numpy_dtype

# Powers of the inputs' magnitudes that are tried.
POWERS = tuple(each / 10 for each in range(11))
_LEAST = np.float32(1e-4)


def awq_factors(weight: Floats, hessian: Floats, magnitudes: Floats, group_size: int, dtype: str) -> Floats:
    """What the inputs of weight [N, K] are multiplied by, [K]: numbers of the checkpoint's `dtype`.

    `hessian` [K, K] is the mean of x x^T, `magnitudes` [K] that of |x|. A power of 0 leaves the inputs as they are.
    """
    best, least = np.ones(weight.shape[1], np.float32), np.inf
    for power in POWERS:
        factors = _factors(magnitudes, power).astype(numpy_dtype(dtype)).astype(np.float32)
        rounded = dequantize(*quantize_groups(weight / factors, (7.0,), group_size), group_size) * factors
        error = rounded - weight
        lost = float(np.vdot(error @ hessian, error))
        if lost < least:
            best, least = factors, lost
    return best


def _factors(magnitudes: Floats, power: float) -> Floats:
    """Around 1: the greatest is as far from it as the least."""
    scales = np.maximum(magnitudes, _LEAST) ** np.float32(power)
    factors: Floats = np.sqrt(scales.max() * scales.min()) / scales
    return factors


def awq_levels(weight: Floats, hessian: Floats, group_size: int, divisors: Sequence[float]) -> tuple[Levels, Floats]:
    """weight [N, K] as the nearest levels [N, K] under scales [N, ceil(K / group_size)]: the greatest magnitude of a
    group over that one of `divisors` which changes the group's share of the outputs least.
    """
    count, width = weight.shape
    groups = -(-width // group_size)
    spare = groups * group_size - width
    blocks = np.pad(weight, ((0, 0), (0, spare))).reshape(count, groups, group_size)
    padded = np.pad(hessian, ((0, spare), (0, spare))).reshape(groups, group_size, groups, group_size)
    squares = np.stack([padded[group, :, group] for group in range(groups)])
    greatest = np.abs(blocks).max(axis=-1)
    shorten = _fits_float16(blocks, divisors)
    best, least = np.zeros((count, groups), np.float32), np.full((count, groups), np.inf, np.float32)
    for divisor in divisors:
        scales = greatest / np.float32(divisor)
        if shorten:
            scales = scales.astype(np.float16).astype(np.float32)
        error = int4_levels(blocks, scales[..., None]) * scales[..., None] - blocks
        lost = np.einsum("ngk,ngk->ng", np.matmul(error.swapaxes(0, 1), squares).swapaxes(0, 1), error)
        better = lost < least
        least[better], best[better] = lost[better], scales[better]
    levels = int4_levels(blocks, best[..., None]).astype(np.int8)
    return levels.reshape(count, -1)[:, :width], best


def _fits_float16(blocks: Floats, divisors: Sequence[float]) -> bool:
    """True when all scales of these groups are normal numbers of float16, or zero."""
    greatest = np.abs(blocks).max(axis=-1)
    used, sizes = greatest[greatest > 0], np.abs(divisors)
    limits = np.finfo(np.float16)
    return not used.size or bool(used.max() / sizes.min() <= limits.max and used.min() / sizes.max() >= limits.tiny)
