"""Scales of groups as whole multiples of one unit a row.

A level of 4 bits times a multiple of 4 bits is a weight of 8 bits, so that the groups of a row are added up in integers
and its unit comes in once. That saves a quarter of a bit a weight in groups of 32, and a matrix unit multiplies such
weights as fast as int8 ones. What it loses on a real model is within the error of the measurement
(docs/measured/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# -8 times it is still a signed byte.
MOST_MULTIPLE = 15
# Parts of the greatest scale of a row that its greatest multiple may stand for, and multiples beside the nearest.
_PARTS = (1.0, 0.93, 0.86, 0.8)
_STEPS = (-2, -1, 0, 1, 2)
# A unit of so many bits times a multiple of four is exact in float16's eleven.
_UNIT_BITS = 7


def whole_multiples(wanted: Floats, lost: Callable[[Floats], Floats]) -> Floats:
    """Scales [N, groups] near those that are `wanted`, each a whole multiple, at most MOST_MULTIPLE either way, of one
    unit a row: those of a few choices for which `lost` (scales [N, groups] -> error [N, groups]) is least. A scale
    keeps its sign or is zero.
    """
    greatest = np.abs(wanted).max(axis=1, initial=0)
    result, least = np.zeros_like(wanted), np.full(len(wanted), np.inf, np.float32)
    for part in _PARTS:
        unit = _short(greatest * np.float32(part / MOST_MULTIPLE))[:, None]
        nearest = np.rint(np.divide(np.abs(wanted), unit, out=np.zeros_like(wanted), where=unit > 0))
        best, errors = np.zeros_like(wanted), np.full(wanted.shape, np.inf, np.float32)
        for step in _STEPS:
            scales = np.copysign(np.clip(nearest + step, 0, MOST_MULTIPLE) * unit, wanted)
            error = lost(scales)
            better = error < errors
            errors[better], best[better] = error[better], scales[better]
        better = errors.sum(axis=1) < least
        least[better], result[better] = errors.sum(axis=1)[better], best[better]
    return result


def split_multiples(scales: Floats) -> tuple[npt.NDArray[np.int8], Floats] | None:
    """scales [N, groups] as multiples [N, groups] and units [N] whose products they are to the bit; None when a row has
    no such unit.
    """
    greatest = np.abs(scales).max(axis=1, initial=0)
    multiples, units = np.zeros(scales.shape, np.int8), np.zeros(len(scales), np.float32)
    left = greatest > 0
    for divisor in range(1, MOST_MULTIPLE + 1):
        unit = greatest / np.float32(divisor)
        found = np.rint(np.divide(scales, unit[:, None], out=np.zeros_like(scales), where=unit[:, None] > 0))
        whole = left & (found * unit[:, None] == scales).all(axis=1)
        multiples[whole], units[whole] = found[whole].astype(np.int8), unit[whole]
        left &= ~whole
        if not left.any():
            return multiples, units
    return None


def _short(values: Floats) -> Floats:
    """Rounded to _UNIT_BITS bits."""
    mantissa, exponent = np.frexp(values)
    short: Any = np.ldexp(np.rint(np.ldexp(mantissa, _UNIT_BITS)), exponent - _UNIT_BITS)
    return short.astype(np.float32)  # type: ignore[no-any-return]
